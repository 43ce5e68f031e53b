"""Claims about the piano roll. Places are computed by hand: with ``WIDTH`` the roll is 1,000 px wide, from x = 52.

The first roll begins at y = 100 (a header of 78 px and a strip of 22 px for labels).
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk, one_line
from PIL import Image

from ritornello.errors import RitornelloError
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.rendering import SPLIT, layout, note_bars, piano_roll, piano_roll_svg, velocity_colour

WIDTH = 1080
TOP = 100
ANCHORS = [(0.0, 10.0, 50, 64), (0.0, 10.0, 74, 64)]  # ten seconds, rows for pitches 48 to 76, 9 px each


def drawn(tmp_path: Path, piece: Piece, **options) -> np.ndarray:
    """(height, width, 3) the picture as the PNG file holds it."""
    path = tmp_path / "roll.png"
    piano_roll(piece, path, width_px=WIDTH, title="", **options)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def changed(a: np.ndarray, b: np.ndarray) -> list[int]:
    """x0, y0, x1, y1 around the pixels that differ, below the header (which counts the notes)."""
    y, x = np.nonzero(np.any(a[TOP:] != b[TOP:], axis=2))
    return [int(v) for v in (x.min(), y.min() + TOP, x.max() + 1, y.max() + 1 + TOP)]


def lightness(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours (IEC 61966-2-1)."""
    return linear(rgb) @ [0.2126, 0.7152, 0.0722]


def linear(rgb: np.ndarray) -> np.ndarray:
    part = np.asarray(rgb) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def has_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.any(np.all(pixels == colour, axis=-1)))


def test_a_note_lies_where_its_time_and_pitch_say(tmp_path):
    without = drawn(tmp_path, Piece.from_notes(ANCHORS))
    with_note = drawn(tmp_path, Piece.from_notes([*ANCHORS, (3.0, 4.0, 60, 90)]))
    assert changed(without, with_note) == [52 + 300, TOP + 16 * 9, 52 + 400, TOP + 17 * 9]


def test_a_long_piece_is_wrapped_and_a_note_lies_in_its_own_system(tmp_path):
    anchors = [(0.0, 600.0, 50, 64), (0.0, 600.0, 74, 64)]  # ten systems of 60 s, 29 rows of 5 px, 24 px of axis
    without = drawn(tmp_path, Piece.from_notes(anchors))
    with_note = drawn(tmp_path, Piece.from_notes([*anchors, (123.0, 126.0, 60, 90)]))
    system = TOP + 2 * (22 + 29 * 5 + 24)
    assert changed(without, with_note) == [52 + 50, system + 16 * 5, 52 + 100, system + 17 * 5]


def test_a_note_across_a_break_goes_on_in_the_next_system(tmp_path):
    anchors = [(0.0, 600.0, 50, 64), (0.0, 600.0, 74, 64)]
    without = drawn(tmp_path, Piece.from_notes(anchors))
    with_note = drawn(tmp_path, Piece.from_notes([*anchors, (57.0, 63.0, 60, 90)]))
    height = 22 + 29 * 5 + 24
    first, second = slice(0, height + TOP - 22), slice(height, 2 * height + TOP - 22)
    assert changed(without[first], with_note[first])[::2] == [52 + 950, 52 + 1000]
    assert changed(without[second], with_note[second])[::2] == [52, 52 + 50]
    y = TOP + 16 * 5 + 2
    assert lightness(with_note[y, 52 + 950]) < lightness(with_note[y, 52 + 970])  # struck: a darker edge
    assert tuple(with_note[y + height, 52]) == tuple(with_note[y + height, 52 + 20])  # only held on: none


def test_a_key_struck_again_while_held_ends_the_first_bar_for_good():
    notes = [(0.0, 600.0, 40, 64), (50.0, 70.0, 60, 64), (55.0, 58.0, 60, 64)]
    piece = Piece.from_notes(notes)
    bars = note_bars(piece, layout(piece, width_px=WIDTH))
    first = bars[bars[:, 0] == 1]
    assert first[:, 1].tolist() == [0]  # nothing in the second system, from 60 s
    assert first[0, 3] == pytest.approx(52 + 55 / 60 * 1000 - 1)


@pytest.mark.parametrize("seconds", [0.2, 10, 44.9, 45.1, 61, 100, 179, 240.5, 333, 600, 1799])
def test_systems_cover_the_piece_without_an_empty_one(seconds):
    plan = layout(Piece.from_notes([(0.0, seconds, 60, 64)]))
    assert plan.systems * plan.row_s >= seconds
    assert (plan.systems - 1) * plan.row_s < max(seconds, 4)
    assert plan.systems == 1 if seconds <= 45 else 25 <= plan.row_s <= 60


def test_louder_is_darker_for_every_eye():
    colours = np.array([velocity_colour(v) for v in range(1, 128)])
    # Machado, Oliveira, Fernandes 2009: complete protanopia, deuteranopia, tritanopia; on linear RGB.
    eyes = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    for eye in eyes:
        seen = np.clip(linear(colours) @ np.transpose(eye), 0, 1) @ [0.2126, 0.7152, 0.0722]
        assert np.all(np.diff(seen[::3]) < 0)


def test_velocity_shows_in_the_picture(tmp_path):
    pixels = drawn(tmp_path, Piece.from_notes([*ANCHORS, (2.0, 4.0, 60, 30), (6.0, 8.0, 60, 110)]))
    middle = TOP + 16 * 9 + 4
    soft, loud = pixels[middle, 52 + 300], pixels[middle, 52 + 700]
    assert lightness(loud) < 0.5 * lightness(soft)


def test_a_repeated_note_is_told_from_a_held_one(tmp_path):
    held = drawn(tmp_path, Piece.from_notes([*ANCHORS, (2.0, 4.0, 60, 64)]))
    repeated = drawn(tmp_path, Piece.from_notes([*ANCHORS, (2.0, 3.0, 60, 64), (3.0, 4.0, 60, 64)]))
    row = TOP + 16 * 9 + 4
    colour = velocity_colour(64)
    across = range(52 + 205, 52 + 395)
    assert all(tuple(held[row, x]) == colour for x in across)
    other = [x for x in across if tuple(repeated[row, x]) != colour]
    assert other
    assert set(other) <= {52 + 298, 52 + 299, 52 + 300, 52 + 301}
    assert max(lightness(repeated[row, x]) for x in other) > 0.7  # paper between the strikes


def test_fast_repetitions_stay_apart_in_a_long_piece():
    onsets = 30 + 0.1 * np.arange(100)
    piece = Piece.from_notes([(t, t + 0.1, 60, 64) for t in onsets] + [(0.0, 600.0, 40, 64)])
    bars = note_bars(piece, layout(piece, width_px=WIDTH))
    x0, x1 = (np.sort(bars[(bars[:, 0] > 0), column]) for column in (2, 3))
    assert len(x0) == 100
    np.testing.assert_allclose(x0, 52 + onsets / 60 * 1000)
    assert np.all(x1 > x0)
    assert np.all(x1[:-1] < x0[1:])


def test_a_very_short_note_stays_visible_in_a_long_piece(tmp_path):
    anchors = [(0.0, 600.0, 50, 64), (0.0, 600.0, 74, 64)]
    without = drawn(tmp_path, Piece.from_notes(anchors))
    for note in [(30.0, 30.001, 60, 30), (30.0, 30.0, 60, 30)]:
        x0, _, x1, _ = changed(without, drawn(tmp_path, Piece.from_notes([*anchors, note])))
        assert (x0, x1) == (552, 555)


def test_prompt_and_continuation_are_told_apart(tmp_path):
    piece = Piece.from_notes(ANCHORS)
    plain, split = drawn(tmp_path, piece), drawn(tmp_path, piece, split_s=4.0)
    strip, white_key = slice(TOP - 22, TOP), TOP + 16 * 9 + 4
    assert np.all(split[TOP : TOP + 29 * 9, 52 + 400] == SPLIT)
    assert not has_colour(plain[TOP - 22 :], SPLIT)
    assert has_colour(split[strip, : 52 + 395], SPLIT)
    assert has_colour(split[strip, 52 + 405 :], SPLIT)
    before, after = split[white_key, 52 + 250], split[white_key, 52 + 650]
    assert tuple(before) != tuple(after)
    assert tuple(after) == tuple(plain[white_key, 52 + 250])


@pytest.mark.parametrize("split_s", [0.0, 0.01, 9.99, 10.0, 25.0, 59.9, 60.0, 600.0])
def test_a_prompt_may_end_anywhere(tmp_path, split_s):
    pixels = drawn(tmp_path, Piece.from_notes([(0.0, max(split_s, 10.0), 60, 64)]), split_s=split_s)
    columns = np.all(pixels == SPLIT, axis=2).sum(axis=0)
    assert np.sum(columns >= 25 * 4) == 2  # one line, two pixels wide


def test_the_pedal_has_a_lane_only_where_there_is_a_pedal(tmp_path):
    dry = Piece.from_notes(ANCHORS)
    wet = dataclasses.replace(dry, pedals=[(1.0, 3.0), (3.0, 5.0)])
    without, lane = drawn(tmp_path, dry), drawn(tmp_path, wet)
    assert len(lane) == len(without) + 13
    row = lane[TOP + 29 * 9 + 7]
    assert lightness(row[52 + 200]) < 0.5
    assert np.all(row[52 + 101 : 52 + 298] == row[52 + 200])
    assert np.all(row[52 + 301 : 52 + 498] == row[52 + 200])
    assert lightness(row[52 + 299]) > lightness(row[52 + 200])  # the lift between two spans
    assert tuple(row[52 + 650]) == (255, 255, 255)


def test_sound_that_only_the_pedal_holds_is_paler_than_a_held_key(tmp_path):
    notes = [*ANCHORS, (1.0, 2.0, 60, 100)]
    pixels = drawn(tmp_path, Piece.from_notes(notes, pedals=[(0.5, 6.0)]))
    held, ringing, silent = (lightness(pixels[TOP + 16 * 9 + 4, 52 + x]) for x in (150, 450, 650))
    assert held < ringing < silent


def test_only_the_register_used_is_drawn_and_each_c_is_named(tmp_path):
    plan = layout(Piece.from_notes(ANCHORS))
    assert (plan.low, plan.high) == (48, 76)
    pixels = drawn(tmp_path, Piece.from_notes(ANCHORS))
    named = np.flatnonzero(np.any(lightness(pixels[TOP : TOP + 29 * 9 - 1, 20:50]) < 0.5, axis=1))
    rows = {76 - y // 9 for y in named.tolist()}
    for c in (48, 60, 72):
        assert rows & {c, c - 1, c + 1}
    assert not rows & {54, 55, 66, 67}


@pytest.mark.parametrize("piece", [Piece.from_notes([]), Piece.from_notes([], pedals=[(1.0, 2.0)])])
def test_a_piece_without_notes_says_so(tmp_path, piece):
    pixels = drawn(tmp_path, piece)
    middle = slice(WIDTH // 2 - 200, WIDTH // 2 + 200)
    assert np.sum(lightness(pixels[TOP : TOP + 25 * 9, middle]) < 0.1) > 200
    sounding = drawn(tmp_path, Piece.from_notes([(0.0, 1.0, 60, 30)]))
    assert np.sum(lightness(sounding[TOP : TOP + 25 * 9, middle]) < 0.1) == 0


@pytest.mark.parametrize("title", ["", "Frédéric Chopin", "夜想曲", "two\nlines\x00", "x" * 5000])
def test_any_title_is_drawn_on_one_line_beside_the_legend(tmp_path, title):
    path = tmp_path / "roll.png"
    piano_roll(Piece.from_notes(ANCHORS), path, title=title, width_px=WIDTH)
    with Image.open(path) as image:
        header = np.asarray(image.convert("RGB"))[:78].astype(int)
    inked = np.any(lightness(header[10:50, :820]) < 0.5)
    assert inked == bool(title)
    assert np.all(header[:, 805:820] == header[0, 0])


def test_the_heading_falls_back_to_the_piece_and_then_to_the_file(tmp_path):
    for name, piece, title in [
        ("by-hand", Piece.from_notes(ANCHORS), "Nocturne"),
        ("from-piece", Piece.from_notes(ANCHORS, title="Nocturne"), None),
        ("Nocturne", Piece.from_notes(ANCHORS), None),
    ]:
        piano_roll(piece, tmp_path / f"{name}.png", title=title)
    first, *others = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert all(other == first for other in others)


def test_the_longest_and_widest_pieces_still_give_a_picture_of_sane_size(tmp_path):
    notes = [(0.0, 1e6, 0, 1), (1e6, 1e6, 127, 127), (3e5, 3e5, 60, 64), (60.0, 120.0, 61, 64)]
    assert len(drawn(tmp_path, Piece.from_notes(notes), split_s=1e6)) < 20_000


def test_an_existing_picture_is_replaced(tmp_path):
    path = tmp_path / "roll.png"
    path.write_bytes(b"old")
    piano_roll(Piece.from_notes(ANCHORS), str(path))
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [piano_roll, piano_roll_svg])
@pytest.mark.parametrize("place", ["missing/roll", "file/roll", "folder"])
def test_a_place_that_cannot_be_written_gives_one_line_and_leaves_nothing(tmp_path, place, write):
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with one_line(tmp_path / place):
        write(Piece.from_notes(ANCHORS), tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_old_picture(tmp_path):
    path = tmp_path / "roll.png"
    path.write_bytes(b"old")

    with full_disk(1000), pytest.raises(RitornelloError, match="cannot be written"):
        piano_roll(Piece.from_notes(ANCHORS), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [piano_roll, piano_roll_svg])
@pytest.mark.parametrize("options", [{"width_px": 100}, {"split_s": -1.0}, {"split_s": float("nan")}])
def test_a_senseless_option_is_refused_before_anything_is_written(tmp_path, options, write):
    with pytest.raises(ValueError, match=next(iter(options))):
        write(Piece.from_notes(ANCHORS), tmp_path / "roll", **options)
    assert not list(tmp_path.iterdir())


def test_every_note_of_a_real_performance_is_on_the_paper(tmp_path, asap):
    piece = read_midi(sorted(asap.glob("Chopin/Berceuse_op_57/*.mid"))[0])
    assert len(piece) > 1000
    plan = layout(piece, width_px=WIDTH)
    pixels = drawn(tmp_path, piece)
    system = np.floor(piece.onset / plan.row_s)
    x = np.floor(52 + (piece.onset / plan.row_s - system) * 1000 + 2).astype(int)  # beyond the darker edge
    height = 22 + (plan.high - plan.low + 1) * plan.semitone_px + plan.pedal_px + 24
    y = (TOP + system * height + (plan.high - piece.pitch.astype(int)) * plan.semitone_px + 2).astype(int)
    colour = np.array([velocity_colour(v) for v in piece.velocity])
    off = np.abs(pixels[y, x] - colour).max(axis=1)
    assert np.mean(off < 10) > 0.99  # the rest: keys struck again within two pixels
