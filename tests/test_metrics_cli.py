"""The verb ``metrics``: its figures are the library's, its page stands alone, and bad input gets one line."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from command import Run, assert_refused
from comparing import compare
from conftest import made_up_piece
from PIL import Image
from short_studies import assert_drawn, table_below

from ritornello import codec
from ritornello.charts import COLOURS
from ritornello.errors import RitornelloError
from ritornello.metrics.registry import FEATURES, STANDARD, extract
from ritornello.metrics.repetition import repetition_band, repetition_curve
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.reports import Comparison, compare_folders, compare_pieces, page
from ritornello.reports.sets import KEY_LENGTH_FEATURES

VOID = {"meta", "img", "br"}


@pytest.fixture
def run(command: Run) -> Run:
    """The verb."""
    return partial(command, "metrics")


def write_all(folder: Path, pieces: Sequence[Piece]) -> Path:
    folder.mkdir(parents=True)
    for number, piece in enumerate(pieces):
        piece.write(folder / f"{number}.mid")
    return folder


def one_note(velocity: int, pitch: int = 60) -> Piece:
    return Piece.from_notes([(0, 1, pitch, velocity)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Made-up pieces, of which only the reference's have pedals, two files of no use, and one piece on both sides."""
    rng = np.random.default_rng(1)
    base = tmp_path_factory.mktemp("sets")
    shared = made_up_piece(rng).without_pedal()
    reference = write_all(base / "reference", [*(made_up_piece(rng) for _ in range(6)), shared])
    generated = write_all(base / "generated", [made_up_piece(rng).without_pedal() for _ in range(4)])
    replace(read_midi(reference / "6.mid"), title="another name").write(generated / "mine.mid")
    onset = np.arange(400) * 0.05
    odd = Piece(onset, onset + 0.04, 90 + np.arange(400) % 3, np.full(400, 127))
    odd.write(generated / "odd <&>.mid")
    (generated / "broken.mid").write_bytes(b"MThd")
    Piece.from_notes([]).write(generated / "silent.mid")
    shutil.copy(reference / "3.mid", generated / "elsewhere.txt")  # not taken for music
    return reference, generated


@pytest.fixture(scope="module")
def comparison(folders: tuple[Path, Path]) -> Comparison:
    return compare_folders(folders[0], [folders[1]], seed=5, jobs=1)[0]


@pytest.fixture(scope="module")
def text(comparison: Comparison) -> str:
    return page(comparison)


# Figures.


def test_the_figures_are_those_of_the_library_for_the_files_read_one_by_one(folders, comparison):
    assert list(comparison.results) == list(STANDARD)
    names = ["PC", "PCTM", "velocity_mean", "sounding_length", "near_repetition"]
    reference = [extract(read_midi(path).without_pedal(), names) for path in sorted(folders[0].glob("*.mid"))]
    usable = [folders[1] / f"{name}.mid" for name in ("0", "1", "2", "3", "mine", "odd <&>")]
    generated = [extract(read_midi(path), names) for path in usable]
    expected = compare(reference, generated, rng=np.random.default_rng(5))
    figures = comparison.figures()["features"]
    for name in names:
        for score in ("oa_reference", "oa_generated", "kld", "kld_mgeval", "energy"):
            for kind, value in expected[name][score].items():
                assert figures[name][score][kind] == pytest.approx(value, rel=1e-6, abs=1e-9), (name, score, kind)
        assert figures[name]["verdict"]["inside"] == expected[name]["verdict"]["inside"]
        assert figures[name]["unit"] == FEATURES[name].unit
    inside = sum(figure["verdict"]["inside"] for figure in figures.values())
    assert comparison.figures()["inside"] == inside < 26 == comparison.figures()["features_compared"]


def test_the_figures_do_not_depend_on_processes_and_other_features(folders, comparison, run):
    outcome = run(*folders, "--features", "PR, IOI", "--seed", 5, "--jobs", 2, "--json")
    assert outcome.code == 0, outcome.err
    expected = comparison.figures()["features"]
    assert json.loads(outcome.out)["features"] == {"PR": expected["PR"], "IOI": expected["IOI"]}


def test_typical_and_atypical_are_by_the_distance_to_the_reference(tmp_path):
    """One feature by hand: velocities 40, 50, 60, 70 are 100/6 apart; 90 is 35 from them, 50 and 60 are 10."""
    known = [40, 50, 60, 70]
    usual = np.mean([abs(a - b) for a, b in combinations(known, 2)])
    assert usual == pytest.approx(100 / 6)
    reference = write_all(tmp_path / "reference", [one_note(v, 60 + i) for i, v in enumerate(known)])
    generated = write_all(tmp_path / "generated", [one_note(v) for v in (90, 60, 50, 45)])
    done = compare_folders(reference, [generated], ["velocity_mean", "IOI"], jobs=1)[0]
    assert [standing.name for standing in done.ranking()] == ["1.mid", "2.mid", "3.mid", "0.mid"]
    assert [standing.name for standing in done.typical()] == ["1.mid", "2.mid"]
    assert [standing.name for standing in done.atypical()] == ["0.mid", "3.mid"]
    worst = done.atypical()[0]
    assert (worst.distance, worst.furthest) == (pytest.approx(35 / usual), "velocity_mean")  # all have the same IOI
    means = {name: (f["reference_mean"], f["generated_mean"]) for name, f in done.figures()["features"].items()}
    assert means == {"velocity_mean": (55, 61.25), "IOI": (1, 1)}
    assert page(done).count('class="roll"') == 4


def test_the_odd_piece_is_the_least_typical(comparison):
    assert comparison.atypical()[0].name == "odd <&>.mid"
    assert len({s.name for s in (*comparison.typical(), *comparison.atypical())}) == 6


# Several sets.


def test_several_sets_are_compared_each_as_alone_and_printed_as_rows(folders, tmp_path, run, comparison):
    rng = np.random.default_rng(9)
    more = write_all(tmp_path / "more", [made_up_piece(rng) for _ in range(5)])
    options = ("--features", "PR,velocity_mean,near_repetition", "--seed", 5, "--jobs", 1)
    outcome = run(folders[0], folders[1], more, *options)
    assert outcome.code == 0, outcome.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in outcome.out.splitlines()]
    first, second = (next(row for row in rows if row[0] == str(folder)) for folder in (folders[1], more))
    alone = json.loads(run(folders[0], folders[1], *options, "--json").out)
    assert first[1:4] == ["6", f"{alone['inside']} of 3", str(3 - alone["inside"])]
    outside = {name: f["verdict"]["widths_outside"] for name, f in alone["features"].items()}
    worst = sorted((name for name in outside if outside[name]), key=lambda name: -outside[name])
    assert first[4] == ", ".join(f"{name} {outside[name]:.1f}" for name in worst) != ""
    assert second[1] == "5"
    scores = next(row for row in rows if row[0] == "PR")
    figures = alone["features"]["PR"]
    both = f"{figures['oa_reference']['score']:.3f} / {figures['kld']['score']:.3f}"
    assert scores[1].strip("*") == both
    assert scores[1].startswith("**") != figures["verdict"]["inside"]
    listed = json.loads(run(folders[0], folders[1], more, *options, "--json").out)
    assert listed[0] == alone
    assert [entry["generated"]["pieces"] for entry in listed] == [6, 5]


def test_a_row_says_how_many_windows_repeat_more_than_the_references(folders, comparison):
    curves = {
        side: [repetition_curve(read_midi(path)) for path in sorted(folder.glob("*.mid")) if path.stem in names]
        for side, folder, names in (
            ("reference", folders[0], set("0123456")),
            ("generated", folders[1], {"0", "1", "2", "3", "mine", "odd <&>"}),
        )
    }
    band = repetition_band(curves["reference"])
    found = comparison.figures()["windows_above_repetition_band"]
    for side, of_side in curves.items():
        for kind in ("near", "far"):
            limit = getattr(band, kind)[1]
            above = [value > top for curve in of_side for value, top in zip(getattr(curve, kind), limit)]
            assert found[side][kind] == pytest.approx(np.mean(above))
    assert found["generated"]["near"] > 0


def autocorrelations(folder: Path, lag: int) -> list[float]:
    """Of each piece's tokens by plain loops (PerceiverS, equation 9)."""
    found = []
    for path in sorted(folder.glob("*.mid")):
        x = [float(token) for token in codec.encode(read_midi(path))]
        mean = sum(x) / len(x)
        products = sum((x[t] - mean) * (x[t + lag] - mean) for t in range(len(x) - lag))
        found.append(products / sum((value - mean) ** 2 for value in x))
    return found


def test_repetition_is_printed_for_each_set_beside_the_reference_and_drawn(tmp_path, run):
    """A scale up and down again each 2 s, for 80 s and 130 s, beside random notes for 60 s."""
    rng = np.random.default_rng(4)
    scale = [60 + step for step in (0, 2, 4, 5, 7, 5, 4, 2)]
    looped = [
        Piece.from_notes([(i / 4, i / 4 + 0.2, scale[i % 8] + n, 64) for i in range(notes)])
        for n, notes in enumerate((320, 320, 320, 320, 520))
    ]
    human = write_all(tmp_path / "human", [made_up_piece(rng) for _ in range(5)])
    loops = write_all(tmp_path / "loops", looped)
    picture = tmp_path / "repetition.png"
    options = ("--features", "near_repetition", "--jobs", 1, "--repetition", picture)
    outcome = run(human, loops, human, *options)
    assert outcome.code == 0, outcome.err
    assert_drawn(picture)
    table = table_below(outcome.out, "token autocorrelation at lag")
    figures = json.loads(run(human, loops, *options, "--json").out)
    assert figures["token_autocorrelation"]["lags"][4] == 8
    for name, folder, side in ((f"{human} (reference)", human, "reference"), (str(loops), loops, "generated")):
        expected = autocorrelations(folder, 8)
        assert table[name][4] == f"{np.mean(expected):.3f}"
        assert figures["token_autocorrelation"][side]["mean"][4] == pytest.approx(np.mean(expected))
        assert table[name][-1] == f"{figures['token_autocorrelation'][side]['mean_size']:.4f}"
    low, high = np.quantile(autocorrelations(human, 8), (0.05, 0.95))
    assert table["its pieces, 90%"][4] == f"{low:.3f} to {high:.3f}"
    # All of it repeats but what first ends a group of four: 8 + 3 notes of the 40 in the first 10 s.
    over_time = figures["repetition_over_time"]
    assert over_time["generated"]["near"] == pytest.approx([29 / 40, *[1.0] * 7])
    table = table_below(outcome.out, "near / far repetition")
    assert table[str(loops)][:2] == [f"{(29 / 40 + 5) / 6:.3f} / 0.000", "1.000 / 0.000"]
    assert len(table[str(loops)]) == 2  # beyond two minutes one piece is left
    assert table[f"{human} (reference)"][1] == ""
    assert (
        f"{figures['token_autocorrelation']['generated']['mean_size']:.4f}, of the ref"
        in run(human, loops, *options).out
    )


def test_a_page_for_several_sets_is_refused(folders, tmp_path, run):
    outcome = run(folders[0], folders[1], folders[1], "--html", tmp_path / "page.html")
    assert_refused(outcome, "--html shows one generated set")


def test_pieces_at_hand_are_compared_like_those_of_folders(folders, comparison):
    pieces = [[read_midi(path) for path in sorted(folder.glob("*.mid")) if path.stem != "broken"] for folder in folders]
    found = compare_pieces(*pieces, seed=5, name="mine")
    assert found.figures()["features"] == comparison.figures()["features"]
    assert [reason for _, reason in found.generated.skipped] == ["holds no notes"]
    assert str(found.generated.folder) == "mine"
    with pytest.raises(RitornelloError, match=r"generated: 3 of 3 pieces can be used, .* at least 4; give more"):
        compare_pieces(pieces[0], pieces[0][:3])


# Pedals.


def test_key_lengths_are_all_that_a_pedal_turned_into_lengths_changes():
    piece = made_up_piece(np.random.default_rng(3))
    played, plain = extract(piece), extract(piece.without_pedal())
    changed = {name for name in played if not np.allclose(played[name], plain[name], rtol=1e-9, atol=1e-12)}
    assert changed == KEY_LENGTH_FEATURES


@pytest.mark.parametrize("pedals", ["generated", "both"])
def test_key_lengths_take_the_pedal_in_where_one_side_has_none(tmp_path, pedals):
    """A key held for 1 s under a pedal that is lifted after 3 s."""
    held = Piece.from_notes([(0, 1, 60, 80)], pedals=[(0.5, 3)])
    sides = {}
    for side in ("reference", "generated"):
        kind = held if pedals in (side, "both") else one_note(80)
        sides[side] = write_all(tmp_path / side, [kind.transposed(i + 5 * (side == "generated")) for i in range(4)])
    wanted = ["key_length", "sounding_length"]
    done = compare_folders(sides["reference"], [sides["generated"]], wanted, jobs=1)[0]
    means = {name: result.means for name, result in done.results.items()}
    assert means["sounding_length"] == (
        (3, 1) if pedals == "reference" else (1, 3) if pedals == "generated" else (3, 3)
    )
    assert means["key_length"] == (means["sounding_length"] if pedals != "both" else (1, 1))
    said = [line for line in done.warnings() if "pedals" in line]
    assert len(said) == (pedals != "both")
    assert all(line in page(done).replace("&#x27;", "'") for line in said)


# Odd input.


def test_files_that_cannot_be_used_are_listed_and_not_fatal(comparison, text):
    figures = comparison.figures()
    assert (figures["reference"]["pieces"], figures["generated"]["pieces"]) == (7, 6)
    skipped = figures["generated"]["skipped"]
    assert [entry["file"] for entry in skipped] == ["broken.mid", "silent.mid"]
    assert skipped[0]["reason"].startswith("cut short inside its header")
    assert skipped[1]["reason"].startswith("holds no notes")
    assert "<li>broken.mid: cut short inside its header" in text
    assert any("2 of 8 files left out" in line for line in figures["notes"])


def test_the_same_music_on_both_sides_is_reported_whatever_its_file_is_called(folders, comparison, text):
    assert (folders[0] / "6.mid").read_bytes() != (folders[1] / "mine.mid").read_bytes()
    assert comparison.figures()["same_on_both_sides"] == [{"reference": "6.mid", "generated": "mine.mid"}]
    assert "<li>mine.mid is 6.mid</li>" in text
    assert any("1 of 6 generated pieces are, note for note, in the reference" in n for n in comparison.warnings())


def test_pieces_of_one_note_and_sets_all_alike_have_figures_and_a_page(tmp_path, run):
    reference = write_all(tmp_path / "reference", [one_note(80)] * 4)
    generated = write_all(tmp_path / "generated", [one_note(80)] * 4)
    outcome = run(reference, generated, "--html", tmp_path / "page.html", "--json", "--jobs", 1)
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert figures["inside"] == figures["features_compared"] == 26
    assert len(figures["same_on_both_sides"]) == 4
    assert parsed((tmp_path / "page.html").read_text(encoding="utf-8")).headings[0].startswith("26 of 26")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        ("missing", "is not a folder"),
        ("empty", "holds no .mid or .midi files"),
        ("three", "too few MIDI files (3); a comparison needs at least 4"),
        ("broken", "3 of 4 pieces can be used, and a comparison needs at least 4; the first that cannot: 3.mid: "),
    ],
)
def test_too_little_music_is_refused_with_the_reason(folders, tmp_path, run, make, says):
    bad = tmp_path / "bad"
    if make != "missing":
        write_all(bad, [] if make == "empty" else [one_note(80)] * 3)
    if make == "broken":
        (bad / "3.mid").write_bytes(b"no music")
    assert_refused(run(folders[0], bad, "--features", "PR", "--jobs", 1), f"{bad}: {says}")
    if make != "broken":
        assert_refused(run(bad, folders[0], "--features", "PR"), f"{bad}: {says}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--features", "PR,nonsense"), "'nonsense' is unknown"),
        (("--features", ","), "--features names none"),
        (("--preset", "PR"), "preset 'PR' is unknown"),
        (("--html", "nowhere/page.html"), "its folder does not exist"),
        (("--jobs", "0"), "--jobs"),
    ],
)
def test_wrong_options_are_refused_before_any_file_is_read(tmp_path, run, options, says):
    assert_refused(run(tmp_path / "missing", tmp_path / "missing", *options), says)


# The page.


class Parsed(HTMLParser):
    """Fails on tags that do not nest; keeps what the tests ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.cards: dict[str, bool] = {}  # heading -> whether it is folded away
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open and self.open[-1] == "h3":
            self.cards.setdefault(data.strip(), "details" in self.open)


def parsed(text: str) -> Parsed:
    parser = Parsed()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_stands_alone(text):
    tags = parsed(text).tags
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not [word for word in ("http:", "https:", "url(", "@import") if word in text]
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert all(attributes["alt"] for attributes in pictures)
    rolls = [str(attributes["src"]) for attributes in pictures if attributes["class"] == "roll"]
    assert len(rolls) == 6
    for source in rolls:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        Image.open(BytesIO(base64.b64decode(data))).verify()
    viewport = [attributes["content"] for tag, attributes in tags if attributes.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]


def test_the_page_says_first_how_many_features_are_inside_and_folds_their_pictures(comparison, text):
    found = parsed(text)
    inside = {name for name, result in comparison.results.items() if result.figures["verdict"]["inside"]}
    assert found.headings[0] == found.headings[0].strip() == f"{len(inside)} of 26 features inside the human band"
    folded = {name: found.cards[name] for name in comparison.results}
    assert folded == {name: name in inside for name in comparison.results}
    assert set(folded.values()) == {True, False}
    assert found.cards["odd <&>.mid"] is False
    bars = [attributes["aria-label"] for tag, attributes in found.tags if attributes.get("role") == "img"]
    scores = [result.figures["oa_reference"]["score"] for result in (*comparison.outside(),)]
    assert len(bars) == 2 * 26
    assert bars[: 2 * len(scores) : 2] == [f"overlap area {score:.2f}" for score in scores]
    charts = [attributes["alt"] for tag, attributes in found.tags if attributes.get("class") == "chart"]
    assert len(charts) == 26 + 2  # distances and values of each; repetition, structure


def chart(text: str, alt: str) -> str:
    """The SVG of a picture."""
    (source,) = (attributes["src"] for _, attributes in parsed(text).tags if str(attributes.get("alt")).startswith(alt))
    return base64.b64decode(str(source).split(",")[1]).decode()


def test_pictures_are_svg_that_draws_both_sets_with_their_units(text):
    velocity = chart(text, "velocity_mean")
    for words in ("distances between pieces", "share of the pieces", "distance in velocity"):
        assert words in velocity
    for colour in COLOURS[1:4]:  # the reference, the generated set, what is between them
        assert f"stroke: {colour}" in velocity
    assert "E♭" in chart(text, "PCH:")
    repetition = chart(text, "near and far repetition")
    assert "reference" in repetition
    assert "more than 30 s ago" in repetition


def test_the_page_names_the_furthest_features_first_and_links_to_their_pictures(comparison, text):
    widths = {name: f["verdict"]["widths_outside"] for name, f in comparison.figures()["features"].items()}
    furthest = sorted((name for name in widths if widths[name]), key=lambda name: -widths[name])[:6]
    assert len(furthest) == 6
    tags = parsed(text).tags
    links = [str(attributes["href"]) for tag, attributes in tags if tag == "a"]
    assert links == [f"#feature-{name}" for name in furthest]
    assert {link[1:] for link in links} < {attributes["id"] for _, attributes in tags if "id" in attributes}
    for name in furthest:
        assert f'>{name}</a> <span class="outside">{widths[name]:.1f} widths</span>' in text
    near = comparison.figures()["windows_above_repetition_band"]["generated"]["near"]
    assert f"Repetition: {near:.0%} of all windows" in text


def test_the_verb_shows_a_table_and_writes_the_page_with_the_presets_asked_for(folders, tmp_path, run):
    presets = ("--preset", "mgeval", "--preset", "structure", "--jobs", 1)
    outcome = run(*folders, *presets, "--html", tmp_path / "page.html")
    assert outcome.code == 0
    assert "silent.mid: holds no notes" in outcome.err
    assert "6 pieces beside 7" in outcome.out
    assert "least typical: odd <&>.mid" in outcome.out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    wanted = {name for name, feature in FEATURES.items() if feature.preset in ("mgeval", "structure")}
    assert wanted <= parsed(text).cards.keys()
    assert all(name in outcome.out for name in wanted)
    assert "nan" not in text.split("base64")[0]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
