"""Claims about the piano roll as SVG: it is read back here box by box, and holds what the PNG shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import made_up_piece
from PIL import Image

from ritornello.notes import Piece
from ritornello.rendering import piano_roll, piano_roll_svg, velocity_colour

SVG = "{http://www.w3.org/2000/svg}"
WIDTH = 1080  # the roll is then 1,000 px wide, from x = 52; the first begins at y = 100
ANCHORS = [(0.0, 10.0, 50, 64), (0.0, 10.0, 74, 64)]  # ten seconds, rows for pitches 48 to 76, 9 px each
NUMBER = r"(-?\d+(?:\.\d)?)"
BOX = re.compile(rf"M{NUMBER} {NUMBER}h{NUMBER}v{NUMBER}(?:h-{NUMBER}|H0)z")


class Box(NamedTuple):
    colour: tuple[int, int, int]
    x0: float
    y0: float
    x1: float
    y1: float


def drawn(tmp_path: Path, piece: Piece, **options) -> ET.Element:
    path = tmp_path / "roll.svg"
    piano_roll_svg(piece, path, width_px=WIDTH, **options)
    root = ET.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    return root


def boxes(root: ET.Element) -> list[Box]:
    """Every box, from back to front; nothing else is in any path."""
    found = []
    for path in root.iter(f"{SVG}path"):
        assert BOX.sub("", path.attrib["d"]) == ""
        colour = tuple(bytes.fromhex(path.attrib["fill"].removeprefix("#")))
        for x, y, wide, high in ((float(v) for v in box[:4]) for box in BOX.findall(path.attrib["d"])):
            found.append(Box(colour, x, y, x + wide, y + high))
    return found


def words(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def painted(root: ET.Element) -> np.ndarray:
    """(height, width, 3): the boxes alone, each pixel in the colour at its middle."""
    assert root.attrib["viewBox"] == f"0 0 {root.attrib['width']} {root.attrib['height']}"
    image = np.zeros((int(root.attrib["height"]), int(root.attrib["width"]), 3), int)
    for box in boxes(root):
        x0, y0, x1, y1 = (round(v) for v in box[1:])
        image[y0:y1, x0:x1] = box.colour
    return image


def of_colour(root: ET.Element, velocity: int) -> list[Box]:
    return [box for box in boxes(root) if box.colour == velocity_colour(velocity) and box.y0 > 78]


def test_a_note_lies_where_its_time_and_pitch_say(tmp_path):
    (box,) = of_colour(drawn(tmp_path, Piece.from_notes([*ANCHORS, (3.0, 4.0, 60, 90)])), 90)
    assert (box.x0, box.x1) == (52 + 300, 52 + 400)
    assert box.y0 == pytest.approx(100 + 16 * 9, abs=0.5)
    assert box.y1 == pytest.approx(100 + 17 * 9, abs=0.5)


def music(rng: np.random.Generator) -> Piece:
    return made_up_piece(rng, notes=300, seconds=100)


@pytest.mark.parametrize("split_s", [None, 0.0, 30.0, 77.7])
def test_it_shows_what_the_png_shows(tmp_path, split_s):
    piece = music(np.random.default_rng(3))
    root = drawn(tmp_path, piece, split_s=split_s, title="")
    piano_roll(piece, tmp_path / "roll.png", split_s=split_s, title="", width_px=WIDTH)
    with Image.open(tmp_path / "roll.png") as image:
        png = np.asarray(image.convert("RGB")).astype(int)
    svg = painted(root)
    assert svg.shape == png.shape
    even = np.ones(svg.shape[:2], bool)  # where no pixel holds two colours: away from words and the boxes' borders
    for image in (svg, png):
        for axis in (0, 1):
            for step in (1, -1):
                even &= np.all(image == np.roll(image, step, axis), axis=2)
    assert np.any(svg != svg[100, 60], axis=2)[even].sum() > 10_000
    assert even.mean() > 0.3
    assert np.mean(np.any(svg != png, axis=2)[even]) < 0.001


def test_the_lowest_c_and_the_pedal_are_named_apart(tmp_path):
    root = drawn(tmp_path, Piece.from_notes([(0.0, 9.0, 38, 64)], pedals=[(1.0, 2.0)]))  # the lowest row is a C
    y = {text.text: float(text.attrib["y"]) for text in root.iter(f"{SVG}text")}
    assert y["Ped."] - y["C2"] > 11  # their letters are 11 px high


def test_the_axis_counts_minutes_and_each_c_is_named(tmp_path):
    long = words(drawn(tmp_path, Piece.from_notes([(0.0, 600.0, 50, 64), (0.0, 600.0, 74, 64)])))
    assert {"0:00", "1:00", "9:50", "10:00", "C3", "C4", "C5"} <= set(long)
    assert {"0:00", "0:01", "0:09", "0:10"} <= set(words(drawn(tmp_path, Piece.from_notes(ANCHORS))))


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("a <b> & \"c\" 'd' ]]>", "a <b> & \"c\" 'd' ]]>"),
        ("Frédéric Chopin, 夜想曲", "Frédéric Chopin, 夜想曲"),
        ("two\nlines\x00\x1b and \udc80 more\ufffe", "two lines and  more"),
        ("", ""),
    ],
)
def test_any_title_is_shown_as_it_is_in_valid_xml(tmp_path, title, shown):
    assert shown in words(drawn(tmp_path, Piece.from_notes(ANCHORS), title=title))


def test_a_long_title_ends_before_the_legend(tmp_path):
    (cut,) = [text for text in words(drawn(tmp_path, Piece.from_notes(ANCHORS), title="x" * 5000)) if "xx" in text]
    assert cut.endswith("…")
    assert 20 < len(cut) < 80


def test_a_piece_without_notes_says_so(tmp_path):
    assert "There are no notes in this piece." in words(drawn(tmp_path, Piece.from_notes([])))


def test_ten_full_minutes_stay_small(tmp_path):
    rng = np.random.default_rng(1)
    root = drawn(tmp_path, made_up_piece(rng, notes=8000, seconds=600), title="Long")
    assert (tmp_path / "roll.svg").stat().st_size < 1_000_000
    assert len(list(root.iter(f"{SVG}path"))) < 4 * 127 + 100  # a path for a colour, not for a note
    assert len(boxes(root)) > 8000


def test_an_existing_picture_is_replaced_and_named_after_its_file(tmp_path):
    path = tmp_path / "Nocturne.svg"
    path.write_bytes(b"old")
    piano_roll_svg(Piece.from_notes(ANCHORS), str(path))
    assert "Nocturne" in words(ET.parse(path).getroot())
    assert list(tmp_path.iterdir()) == [path]
