"""The PerceiverS study: rows that differ in one thing, intervals, its report, and sets that are played."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, assert_refused
from comparing import compare
from conftest import made_up_piece
from short_studies import assert_drawn, conditions, play_briefly, record, rows_of, table_below
from tiny import made_up_tokens, tiny_config, write_corpus

from ritornello import codec, read_midi
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.feed import Augmentation
from ritornello.files import write_whole
from ritornello.horizons import HorizonSchedule
from ritornello.metrics.registry import extract
from ritornello.models import build
from ritornello.models.dsmr import DSMRConfig
from ritornello.models.perceivers import PerceiverConfig
from ritornello.reports import compare_pieces
from ritornello.sampling import Sampling
from ritornello.studies import measure, report, run, table_one
from ritornello.studies.declared.perceivers import ORDER
from ritornello.studies.record import Conditions, PieceNats, Record, record_path
from ritornello.studies.report import Row
from ritornello.studies.study import recipes_of, study_named
from ritornello.training import fitting, recipes
from ritornello.training.optimisers import learning_rate_factor
from ritornello.training.readers import Cropping, reader_of
from ritornello.training.recipes import Recipe, recipe_named

CONTEXT, LATENTS = 64, 16


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pieces = {"train": made_up_tokens(0, 60, 80, 70, 90), "validation": made_up_tokens(1, 50, 300)}
    pieces["test"] = made_up_tokens(2, *range(40, 48))  # the first two are of the titles of the validation pieces
    return write_corpus(tmp_path_factory.mktemp("study") / "corpus", pieces)


@pytest.fixture(scope="module")
def mini(corpus: Corpus) -> Iterator[Conditions]:
    """Small models of both families, and twelve steps."""
    alike = {"lanes": 2, "validate_every_steps": 12, "validation_pieces": 1}
    perceiver = PerceiverConfig(
        layers=1,
        width=32,
        heads=2,
        mlp_width=48,
        context_tokens=CONTEXT,
        latents=LATENTS,
        scales=(None, LATENTS),
        stride_tokens=8,
    )
    dsmr = tiny_config(schedule=HorizonSchedule((24, 8)))
    with pytest.MonkeyPatch.context() as patched:
        for name, model in (("perceivers_mini", perceiver), ("mini", dsmr)):
            recipe = replace(recipes.tiny(), name=name, model=model, **alike)  # type: ignore[arg-type]
            patched.setitem(recipes.RECIPES, name, lambda recipe=recipe: recipe)
        play_briefly(patched)
        yield conditions("perceivers", corpus, recipe="perceivers_mini", steps=12, budget_tokens=32, pieces=9)


# The rows.


def of_the_paper() -> dict[str, Recipe]:
    return rows_of("perceivers", budget_tokens=4096)


def parameters(recipe: Recipe) -> int:
    return sum(p.numel() for p in build(recipe.model).parameters())


def predicted_tokens(recipe: Recipe) -> int:
    """In one step, at most."""
    model = recipe.model
    return recipe.lanes * (model.segment_tokens if isinstance(model, DSMRConfig) else model.latents)


def test_rows_differ_in_one_thing_each() -> None:
    rows = of_the_paper()
    assert tuple(rows) == ORDER
    baseline, segmented, multi, two_scale = rows.values()
    assert replace(baseline, segmentation="random_end") == segmented
    assert baseline.segmentation == "random_start"
    assert replace(segmented, model=multi.model) == multi
    assert isinstance(segmented.model, PerceiverConfig)
    assert isinstance(multi.model, PerceiverConfig)
    assert (segmented.model.scales, multi.model.scales) == ((None,), (None, multi.model.latents))
    assert replace(segmented.model, scales=(None, 256), layers=segmented.model.layers - 1) == multi.model
    assert replace(multi, name="study", model=two_scale.model, interleave=two_scale.interleave) == two_scale


def test_rows_are_of_one_size_and_predict_as_many_tokens() -> None:
    rows = of_the_paper().values()
    sizes = [parameters(recipe) for recipe in rows]
    assert max(sizes) < 1.001 * min(sizes)
    assert {predicted_tokens(recipe) for recipe in rows} == {1024}


def of_published_size(**changes: Any) -> dict[str, Recipe]:
    return rows_of("perceivers", recipe="perceivers_paper", budget_tokens=32_768, **changes)


def test_at_the_paper_s_size_rows_have_its_layers_and_dsmr_as_many_weights() -> None:
    """24 layers (section VI-A), in the rows of one look too; in the smaller recipes those have a layer more."""
    rows = of_published_size()
    assert tuple(rows) == ORDER
    baseline, segmented, multi, two_scale = (recipe.model for recipe in rows.values())
    assert isinstance(multi, PerceiverConfig)
    assert isinstance(two_scale, DSMRConfig)
    assert baseline == segmented == replace(multi, scales=(None,))
    assert (multi.layers, multi.scales, multi.context_tokens, multi.width, multi.heads) == (
        *(24, (None, 1024), 32_768, 1024),
        16,
    )
    assert two_scale.schedule.layers == 26  # a look has the weights of a layer
    assert 0 <= 32_768 - (two_scale.schedule.budget_tokens or 0) < 26
    assert {predicted_tokens(recipe) for recipe in rows.values()} == {8 * 1024}
    with torch.device("meta"):
        sizes = [parameters(rows[row]) for row in ("multi-scale", "DSMR two-scale")]
    assert max(sizes) < 1.001 * min(sizes)


def test_at_the_paper_s_size_all_rows_are_trained_as_it_says() -> None:
    for recipe in of_published_size().values():
        assert (recipe.optimiser, recipe.weight_decay, recipe.model.dropout, recipe.legal) == ("adam", 0, 0, False)
        assert recipe.augmentation == Augmentation()
        # 0.03125 x min(step^-0.5, step x warm-up^-1.5), from 1 on (arXiv 1706.03762, equation 3).
        for step in (1, 5000, 10_000, 40_000):
            factor = learning_rate_factor(recipe, step=step - 1, progress=step / 100_000)
            expected = 0.03125 * min(step**-0.5, step * 10_000**-1.5)
            assert recipe.matrix_lr * factor == recipe.other_lr * factor == pytest.approx(expected)


def test_a_study_of_the_paper_s_size_starts(
    study: Run, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the first training; and without room for its memories DSMR's row is refused before."""
    started: list[str] = []

    def start(threads: int, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        started.append(arguments[3])
        receiver, sender = Pipe(duplex=False)
        sender.send(True)
        return receiver, SimpleNamespace(join=lambda: None)

    monkeypatch.setattr(run, "_start", start)
    options = ("--data", corpus.path, "--recipe", "perceivers_paper", "--seeds", 1, "--device", "cpu")
    outcome = study("run", "perceivers", *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert started == list(ORDER)
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 10**6)
    assert_refused(study("run", "perceivers", *options, "--out", tmp_path / "refused"), "1.0 MB are free", "8 lanes")


@pytest.mark.parametrize("recipe", ["perceivers_base", "perceivers_paper"])
def test_what_is_asked_of_a_study_is_asked_of_dsmr_too(recipe: str) -> None:
    def changed(**changes: Any) -> Recipe:
        return rows_of("perceivers", recipe=recipe, budget_tokens=32_768, **changes)["DSMR two-scale"]

    assert not changed().legal
    assert changed(legal=True).legal
    assert changed(piece_tokens=5000).piece_tokens == 5000
    assert 4 * changed(lanes=recipe_named(recipe).lanes // 4).lanes == changed().lanes


def test_dsmr_stands_in_both_studies_with_one_recipe() -> None:
    assert of_the_paper()["DSMR two-scale"] == rows_of("dsmr", budget_tokens=4096)["two-scale"]


def test_the_baseline_alone_never_predicts_a_beginning(corpus: Corpus, mini: Conditions) -> None:
    first_predicted = {}
    for row, recipe in recipes_of(mini).items():
        reader = reader_of(build(recipe.model), corpus, recipe, 0)
        if isinstance(reader, Cropping):
            first_predicted[row] = min(int(batch.position.min()) for batch in islice(reader.feed, 60))
    # All pieces are longer than a window.
    assert first_predicted["Perceiver AR"] >= CONTEXT - LATENTS
    assert first_predicted["effective segmentation"] < LATENTS
    assert first_predicted["multi-scale"] == first_predicted["effective segmentation"]


# A run.

TRAINED = ("Perceiver AR", "multi-scale", "DSMR two-scale")


@pytest.fixture(scope="module")
def trained(corpus: Corpus, mini: Conditions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    for row in TRAINED:
        assert measure.measure_run(corpus, out, mini, row, 0, torch.device("cpu"))
    return out


@pytest.mark.parametrize("row", TRAINED)
def test_the_figures_of_a_run_hold_together(corpus: Corpus, trained: Path, row: str) -> None:
    figures = json.loads(record_path(trained, row, 0).read_text())
    records = corpus.pieces("validation")
    short, long = (record.tokens for record in records)
    assert short < 1024 < long
    assert [piece["tokens"] for piece in figures["beginnings"]] == [short, 1024]
    assert [piece["tokens"] for piece in figures["by_piece"]] == [short, long]
    assert [piece["composition"] for piece in figures["by_piece"]] == [": 0", ": 1"]
    for piece in figures["beginnings"] + figures["by_piece"]:
        assert len(piece["blocks"]) == math.ceil(piece["tokens"] / 256)
        assert sum(piece["blocks"]) == pytest.approx(piece["nats"], abs=1e-3)
    # Read alone, a beginning costs what it costs in its piece.
    for beginning, whole in zip(figures["beginnings"], figures["by_piece"]):
        assert beginning["blocks"] == pytest.approx(whole["blocks"][: len(beginning["blocks"])], abs=1e-2)
    parts = {"Perceiver AR": "random_start", "multi-scale": "random_end", "DSMR two-scale": None}
    assert (figures["recipe"]["segmentation"] if row != "DSMR two-scale" else None) == parts[row]
    numbers = {  # keys and values of width 32: contexts and latents; horizons and a segment
        "Perceiver AR": CONTEXT + 2 * LATENTS,
        "multi-scale": CONTEXT + LATENTS + 1 * LATENTS,
        "DSMR two-scale": 16 + 16 + 32,
    }
    assert figures["playing"]["session_bytes"] == numbers[row] * 2 * 32 * 4
    assert figures["playing"]["cpu_seconds_per_token"] > 0
    assert bool(figures["cuts"]) == (row == "DSMR two-scale")


# Intervals.


PERCEIVER = PerceiverConfig(
    layers=7, width=96, heads=3, mlp_width=256, context_tokens=4096, latents=256, scales=(None,), stride_tokens=128
)
MODELS = {
    **dict.fromkeys(ORDER[:2], PERCEIVER),
    ORDER[2]: replace(PERCEIVER, layers=6, scales=(None, 256)),
    ORDER[3]: DSMRConfig(HorizonSchedule.parse("2x1664, 6x128"), width=96, heads=3, segment_tokens=256),
}


def result(row: str, seed: int = 0, *, nats: tuple[float, ...] = (300.0, 500.0, 400.0), **changes: Any) -> Record:
    """Three pieces of 100 tokens, two of them performances of one composition."""
    made = record(
        row,
        seed,
        nats=nats,
        tokens=(100, 100, 100),
        compositions=("Air", "Air", "Gigue"),
        study="perceivers",
        **{"model": MODELS[row], "recipe": {"segmentation": SEGMENTATION.get(row, "random_end")}} | changes,
    )
    assert made.playing is not None
    slow = replace(made.playing, cpu_seconds_per_token=0.002 if row in ORDER[:2] else 0.003)
    return replace(made, playing=slow)


SEGMENTATION = {ORDER[0]: "random_start"}


def of_pieces(*pieces: PieceNats) -> Row:
    return Row("multi-scale", [replace(result("multi-scale"), by_piece=pieces)])


def test_performances_of_one_composition_are_drawn_together() -> None:
    """Of two compositions a draw has either, or both: a quarter of all draws each, and half of them."""
    found = Row("multi-scale", [result("multi-scale")]).interval("beginnings")
    assert found == (pytest.approx(4.0), pytest.approx(4.0), pytest.approx(4.0))  # (300 + 500) / 200 and 400 / 100
    found = Row("multi-scale", [result("multi-scale", nats=(300.0, 500.0, 700.0))]).interval("beginnings")
    assert found == (pytest.approx(5.0), pytest.approx(4.0), pytest.approx(7.0))


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    nats = np.random.default_rng(5).normal(300, 40, 60)
    pieces = (PieceNats(composition=str(i), nats=float(n), tokens=100) for i, n in enumerate(nats))
    found = of_pieces(*pieces).interval("by_piece")
    assert found is not None
    error = nats.std() / math.sqrt(60) / 100
    assert found.mean == pytest.approx(nats.mean() / 100)
    assert found.high - found.mean == pytest.approx(1.96 * error, rel=0.1)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_differences_are_of_the_same_pieces_and_seeds() -> None:
    ours = [result("multi-scale", 0, nats=(290.0, 490.0, 360.0)), result("multi-scale", 1, nats=(1.0, 1.0, 1.0))]
    theirs = [result("Perceiver AR", 0), result("Perceiver AR", 2, nats=(9.0, 9.0, 9.0))]
    one, other = Row("multi-scale", ours), Row("Perceiver AR", theirs)
    # Seed 0 alone is common: 10 less of each 100 tokens of Air, 40 less of the Gigue.
    assert one.interval("beginnings", other) == (pytest.approx(-0.2), pytest.approx(-0.4), pytest.approx(-0.1))
    assert one.nats_above_by_seed("beginnings", other) == [pytest.approx(-0.2)]
    assert Row("multi-scale", ours[1:]).interval("beginnings", other) is None
    both = Row("Perceiver AR", [theirs[0], result("Perceiver AR", 1)])
    assert one.nats_above_by_seed("beginnings", both) == [pytest.approx(-0.2), pytest.approx((3 - 1200) / 300)]


def test_blocks_are_of_the_pieces_that_reach_them() -> None:
    air = PieceNats(composition="Air", nats=356.0, tokens=300, blocks=(256.0, 100.0))
    gigue = PieceNats(composition="Gigue", nats=1036.0, tokens=600, blocks=(512.0, 256.0, 268.0))
    row = of_pieces(air, gigue)
    blocks = row.by_block("by_piece")
    # 256 and 256 tokens; 44 and 256; none and 88.
    assert [block.mean for block in blocks] == [pytest.approx(1.5), pytest.approx(356 / 300), pytest.approx(268 / 88)]
    assert (blocks[0].low, blocks[0].high) == (pytest.approx(1.0), pytest.approx(2.0))
    assert row.by_block("by_piece", of_pieces(air, gigue)) == [(0.0, 0.0, 0.0)] * 3


# The report.


def results() -> list[Record]:
    """Four rows of two seeds, as files are found: in the order of their names."""
    nats = {ORDER[0]: (300.0, 500.0, 400.0), ORDER[1]: (270.0, 470.0, 340.0)}
    of_rows = {row: nats.get(row, (240.0, 440.0, 310.0)) for row in sorted(ORDER)}
    return [result(row, seed, nats=of_row) for row, of_row in of_rows.items() for seed in (0, 1)]


def markdown(runs: list[Record]) -> str:
    return report.markdown(study_named("perceivers"), runs)


def test_the_report_has_ratios_to_the_baseline_and_what_beginnings_cost() -> None:
    slow = result("multi-scale", training={"tokens_per_s": 500.0, "peak_bytes": 30_000_000})
    text = markdown([*results()[:-2], slow])
    table = table_below(text, "## Perplexity")
    assert list(table) == list(ORDER)
    assert table["Perceiver AR"][:7] == ["1.000", "1.00", "1.00", "1.00", "1.00", "54.598 ± 0.000", ""]  # e^4
    # 30, 30 and 60 nats less in 300 tokens; Air's 60 in 200, the Gigue's 60 in 100. e^-0.4 = 0.670.
    assert table["effective segmentation"][0] == "0.670"
    assert table["effective segmentation"][6] == "-0.4000 [-0.6000, -0.3000]"
    assert table["multi-scale"][1:5] == ["0.50", "0.50", "1.00", "1.50"]
    assert table["multi-scale"][7:] == [
        *("1.00 MB", "3.00 ms", "250,000", "random_end; looks back 4,096 then 256, 6 layers"),
    ]
    assert table["DSMR two-scale"][-1] == "whole pieces; horizons 2x1664, 6x128"
    beginnings = table_below(text, "## Beginnings")
    assert beginnings["effective segmentation"] == [
        *("-0.4000 [-0.6000, -0.3000]", "-0.4000, -0.4000", "3.6000 [3.4000, 3.7000]"),
    ]
    assert "Perceiver AR is 0.4000 nats/token behind the same model with effective segmentation there" in text
    assert "[+0.3000, +0.6000], excludes zero" in text
    assert "nan" not in text


def test_the_report_says_what_was_equal_and_what_was_not() -> None:
    first, *others = results()[:-1]
    text = markdown([replace(first, parameters=970_000), *others])
    for words in (
        "Etudes; 123,456 tokens",
        "250,000 to 970,000 parameters",
        "60 steps of the recipe perceivers_study (4 lanes), 61,440 tokens",
        "the first 1,024 tokens of all 3 validation pieces, performances of 2 compositions",
        "Not equal: which tokens training predicts",
        "50% of an epoch, and carries its memory",
        "Seeds: 0, 1; multi-scale only 0.",
        "its data are MAESTRO, N 32,768 (here 4,096)",
        "layers 24 (here 6), short scale 1,024 (here 256).",
        "looks and layers: Perceiver AR 1 + 7, effective segmentation 1 + 7, multi-scale 2 + 6.",
        "Perceiver AR and effective segmentation: the same model",
    ):
        assert words in text


def test_what_was_equal_is_said_of_the_runs_that_there_are() -> None:
    large = replace(PERCEIVER, context_tokens=32_768, latents=1024, width=1024, heads=16, layers=24)
    models = {"model": replace(large, scales=(None, 1024)), "settings": {"corpus": "MAESTRO v3.0.0"}}
    runs = [result(row, settings={"corpus": "MAESTRO v3.0.0"}) for row in ORDER[1:]]
    runs[1] = result("multi-scale", **models)
    text = markdown(runs)
    assert "Not equal to the paper" not in text
    assert "the same weights at the start" not in text  # of the first experiment one row is there
    other = replace(runs[0], settings=replace(runs[0].settings, corpus="Etudes", steps=59))
    text = markdown([other, *runs[1:]])
    assert "Not equal, data: Etudes; 123,456 tokens to train on; MAESTRO v3.0.0; 123,456 tokens to train on." in text
    assert "Not equal, training: 59 steps of the recipe" in text
    assert "Not equal to the paper: its data are MAESTRO." in text
    assert "which tokens training predicts" not in markdown(runs[:2])
    cut = markdown([result(row, recipe={"piece_tokens": 5000}) for row in ORDER])
    assert "tokens of the first 5,000 of each piece, in fp32" in cut


def test_an_interval_around_zero_is_no_verdict_and_a_baseline_may_be_missing() -> None:
    text = markdown([result(ORDER[0]), result(ORDER[1], nats=(310.0, 500.0, 380.0))])
    assert "0.0333 nats/token behind the same model" in text
    assert "[-0.0500, +0.2000], includes zero" in text
    text = markdown([result(ORDER[1]), result(ORDER[2])])
    assert "No run of Perceiver AR is done" in text
    assert table_below(text, "## Perplexity")["multi-scale"][:5] == [""] * 5


# The command line.


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    out = tmp_path / "finished"
    for made in results():
        made.write(out)
    return out


def test_the_table_is_written_printed_and_drawn(study: Run, finished: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "table.png", tmp_path / "curves.png"
    outcome = study("table", "perceivers", "--out", finished, "--png", pictures[0], "--curves", pictures[1], "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["study"] == "perceivers"
    assert [row["row"] for row in found["rows"]] == list(ORDER)
    assert found["rows"][1]["behind_baseline"]["beginnings"] == {
        "mean": pytest.approx(-0.4),
        "low": pytest.approx(-0.6),
        "high": pytest.approx(-0.3),
    }
    for picture in pictures:
        assert_drawn(picture)
    assert_refused(study("table", "dsmr", "--out", finished), "runs of the study perceivers, not of dsmr")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "tiny"], ["tiny is of a model without latents"]),
        (["--recipe", "perceivers_huge"], ["'perceivers_huge'"]),
        (["--row", "two-scale"], ["'two-scale'", "Perceiver AR; effective segmentation; multi-scale; DSMR two-scale"]),
        (["--budget", 1], ["budget of 1 token "]),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    study: Run, corpus: Corpus, tmp_path: Path, options: list[object], words: list[str]
) -> None:
    out = tmp_path / "out"
    assert_refused(study("run", "perceivers", "--data", corpus.path, "--out", out, *options), *words)
    assert not out.exists()


def test_a_folder_of_one_study_is_not_gone_on_with_as_another(study: Run, corpus: Corpus, tmp_path: Path) -> None:
    write_whole(tmp_path / "study.json", json.dumps({"study": "dsmr", "recipe": "study"}))
    outcome = study("run", "perceivers", "--data", corpus.path, "--out", tmp_path, "--recipe", "perceivers_study")
    assert_refused(outcome, "study = dsmr, not perceivers")


# Sets.


def test_sets_are_played_piece_by_piece_and_what_is_there_is_kept(study: Run, trained: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(trained, tmp_path / "study")
    options = ("--out", trained, "--tokens", 90)
    assert study("play", "perceivers", *options, "--pieces", 2, "--row", TRAINED[1], "--row", TRAINED[2]).code == 0
    rows = ("dsmr-two-scale-seed-0", "multi-scale-seed-0")
    played = {path.relative_to(trained / "sets").as_posix(): path for path in (trained / "sets").rglob("*.mid")}
    assert sorted(played) == [f"{row}/{number}.mid" for row in rows for number in ("000", "001")]
    first = {name: path.read_bytes() for name, path in played.items()}
    music = [codec.encode(read_midi(path)) for path in played.values()]
    assert len({events.tobytes() for events in music}) == 4
    for events in music:
        assert 30 < np.sum((events < codec.NOTE_OFF) | (events >= codec.SHIFT)) <= 91  # releases and END may be added
    gone, kept = played["multi-scale-seed-0/001.mid"], played["multi-scale-seed-0/000.mid"]
    gone.unlink()
    kept.write_bytes(b"kept")
    assert study("play", "perceivers", *options, "--pieces", 3, "--row", "multi-scale").code == 0
    assert gone.read_bytes() == first["multi-scale-seed-0/001.mid"]
    assert kept.read_bytes() == b"kept"
    assert (kept.parent / "002.mid").exists()
    assert not (trained / "sets/dsmr-two-scale-seed-0/002.mid").exists()


@pytest.mark.parametrize("verb", ["play", "table"])
def test_sets_are_as_long_as_the_paper_s_and_drawn_safely_unless_told_otherwise(
    study: Run, corpus: Corpus, finished: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """32 pieces of 8,192 tokens (arXiv 2411.08307, section VI), temperature 1 and top-p 0.95."""
    plans: list[table_one.Plan] = []

    def stop(*arguments: Any) -> None:
        plans.extend(one for one in arguments if isinstance(one, table_one.Plan))
        raise RitornelloError("enough")

    for name in ("play_sets", "make_sets"):
        monkeypatch.setattr(table_one, name, stop)
    sets = ("--sets", "--data", corpus.path) if verb == "table" else ()
    assert_refused(study(verb, "perceivers", "--out", finished, *sets), "enough")
    assert plans == [table_one.Plan(rows=[], pieces=32, tokens=8192, sampling=Sampling(1.0, 0.95, 0.0, 0.0, False))]


def test_sets_that_cannot_be_played_are_one_line(study: Run, trained: Path, finished: Path, tmp_path: Path) -> None:
    trained = shutil.copytree(trained, tmp_path / "study")
    options = ("play", "perceivers", "--out", trained, "--pieces", 1)
    assert_refused(study(*options, "--tokens", 0), "tokens is 0")
    missing = study(*options, "--row", "effective segmentation")
    assert_refused(missing, "'effective segmentation'", "DSMR two-scale; multi-scale; Perceiver AR")
    assert_refused(study(*options, "--top-p", 0), "top_p is 0")
    assert_refused(study("play", "perceivers", "--out", finished, "--pieces", 1), "no checkpoint there")
    assert study(*options, "--tokens", 20).code == 0
    assert_refused(study(*options, "--tokens", 30), "tokens = 20, not 30")


# Table I.

TABLE_I = ("PC", "NC", "PCH", "PCTM", "PR", "PI", "IOI", "NLH", "NLTM", "PC/seg", "NC/seg", "PCH/seg", "IOI/seg")
PLAYED = {row: f"{row.lower().replace(' ', '-')}-seed-0" for row in TRAINED}


def music(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.mid"))}


@pytest.fixture(scope="module")
def options(corpus: Corpus) -> tuple[object, ...]:
    return ("table", "perceivers", "--sets", "--data", corpus.path, "--pieces", 4, "--tokens", 90, "--jobs", 1)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "study")


def test_one_command_makes_the_sets_and_table_i(
    study: Run, copied: Path, options: tuple[object, ...], tmp_path: Path
) -> None:
    picture = tmp_path / "repetition.png"
    outcome = study(*options, "--out", copied, "--json", "--repetition", picture)
    assert outcome.code == 0, outcome.err
    assert_drawn(picture)
    made = music(copied / "sets")
    assert {name.split("/")[0] for name in made} == {"human", "human-2", *PLAYED.values()}
    assert len(made) == 5 * 4
    assert [path.name for path in (copied / "sets").rglob(".*")] == []
    found = json.loads(outcome.out)["sets"]
    assert list(found["rows"]) == ["other people", *TRAINED]
    assert {key: found[key] for key in ("corpus", "pieces", "tokens", "temperature", "top_p", "baseline")} == {
        **{"corpus": "made up", "pieces": 4, "tokens": 90, "temperature": 1.0, "top_p": 0.95},
        "baseline": "Perceiver AR",
    }
    # The same scores from the files, read one by one.
    read = {
        folder.name: [extract(read_midi(path), TABLE_I) for path in sorted(folder.glob("*.mid"))]
        for folder in (copied / "sets").iterdir()
        if folder.is_dir()
    }
    rows = found["rows"]
    for row, folder in {"other people": "human-2", **PLAYED}.items():
        scores = compare(read["human"], read[folder], rng=np.random.default_rng(0))
        assert tuple(rows[row]) == TABLE_I
        for feature in TABLE_I:
            for name, score in (("oa", "oa_reference"), ("kld", "kld"), ("kld_mgeval", "kld_mgeval")):
                assert rows[row][feature][name] == pytest.approx(scores[feature][score]["score"], rel=1e-6, abs=1e-9)
    areas = {row: [rows[row][name]["oa"] for name in TABLE_I] for row in ("multi-scale", "Perceiver AR")}
    more = [ours / theirs - 1 for ours, theirs in zip(*areas.values()) if theirs > 0.001]
    found_more = [rows["multi-scale"][name]["oa_more"] for name in TABLE_I]
    assert [value for value in found_more if value is not None] == pytest.approx(more)
    assert found_more.count(None) == sum(area <= 0.001 for area in areas["Perceiver AR"])
    assert found["mean_oa_more"]["multi-scale"] == pytest.approx(np.mean(more))
    assert [entry["generated"]["folder"] for entry in found["sets"]] == ["human-2", *PLAYED.values()]
    # And as Markdown, from the sets that are there.
    report = study(*options, "--out", copied).out
    assert music(copied / "sets") == made
    assert report.startswith("## Perplexity")
    table = table_below(report, "| OA / KLD / KLD of mgeval |")
    assert tuple(table) == (*TABLE_I, "mean")
    assert table["mean"][0].split(" / ")[0] == f"{np.mean([rows['other people'][name]['oa'] for name in TABLE_I]):.3f}"
    for number, row in enumerate(rows):
        score = rows[row]["IOI"]
        assert table["IOI"][number].strip("*") == f"{score['oa']:.3f} / {score['kld']:.3f} / {score['kld_mgeval']:.3f}"
    table = table_below(report, "| OA more than the baseline's |")
    assert table["mean"] == [f"{np.mean(more):+.1%}", "+40%", f"{found['mean_oa_more']['DSMR two-scale']:+.1%}"]
    assert [name for name in TABLE_I if table[name][1]] == ["PCH", "IOI", "NLH", "NLTM", "PCH/seg", "IOI/seg"]
    lags = table_below(report, "token autocorrelation at lag")
    assert list(lags) == ["human (reference)", "its pieces, 90%", "human-2", *PLAYED.values()]
    assert lags["multi-scale-seed-0"][0] == f"{found['sets'][2]['token_autocorrelation']['generated']['mean'][0]:.3f}"
    assert list(table_below(report, "near / far repetition"))[2:] == [*PLAYED.values()]
    for words in (
        "4 pieces of the validation and test splits of made up, one performance of a title, each cut to 90 tokens",
        "other people are 4 more",
        "piece n with seed n, temperature 1, top-p 0.95",
        "its pieces have 8,192 tokens",
    ):
        assert words in report


def test_people_s_pieces_are_held_out_titles_cut_alike(corpus: Corpus) -> None:
    first, second = table_one.held_out(corpus, 4)
    titles = [record.title for record in (*first, *second)]
    assert sorted(titles) == list("01234567")
    assert {record.split for record in (*first, *second)} <= {"validation", "test"}
    fewer = table_one.held_out(corpus, 3)
    assert (fewer[0], fewer[1]) == (first[:3], second[:3])
    assert table_one.held_out(corpus, 5)[0][:4] == first
    assert len(table_one.held_out(corpus, 5)) == 1


def test_people_s_pieces_are_the_corpus_s_tokens(
    study: Run, corpus: Corpus, copied: Path, options: tuple[object, ...]
) -> None:
    assert study(*options, "--out", copied, "--row", "multi-scale").code == 0
    folders = sorted(path.name for path in (copied / "sets").iterdir() if path.is_dir())
    assert folders == ["human", "human-2", "multi-scale-seed-0"]
    for folder, records in zip(folders, table_one.held_out(corpus, 4)):
        for number, piece in enumerate(records):
            tokens = corpus.tokens(piece)[:90]
            found = codec.encode(read_midi(copied / f"sets/{folder}/{number:03}.mid"))
            strikes = [events[events < codec.NOTE_OFF].tolist() for events in (tokens, found)]
            assert strikes[0] == strikes[1]


def test_an_interrupted_command_goes_on(
    study: Run, copied: Path, options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*options, "--row", "multi-scale", "--row", "DSMR two-scale")
    whole = shutil.copytree(copied, tmp_path / "whole")
    assert study(*options, "--out", whole).code == 0
    decode, left = codec.decode, [1] * (8 + 6)  # what people played, and what the models do

    def stopped(*arguments: Any, **named: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return decode(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(codec, "decode", stopped)
        assert study(*options, "--out", copied).code != 0
    before = music(copied / "sets")
    assert len(before) == 8 + 6
    assert [path for path in (copied / "sets").rglob("*") if path.suffix not in (".mid", ".json", "")] == []
    (copied / "sets/human/001.mid").unlink()
    (copied / "sets/human/000.mid").write_bytes(before["human/002.mid"])
    assert study(*options, "--out", copied).code == 0
    after, expected = music(copied / "sets"), music(whole / "sets")
    assert after.pop("human/000.mid") == before["human/002.mid"]  # what is there is kept
    del expected["human/000.mid"]
    assert after == expected


def test_sets_that_cannot_be_compared_are_one_line(
    study: Run, corpus: Corpus, copied: Path, options: tuple[object, ...], tmp_path: Path
) -> None:
    assert_refused(study(*options, "--out", tmp_path / "nothing"), "no run of a study is finished here")
    here = (*options, "--out", copied)
    assert_refused(study(*here, "--pieces", 3), "pieces is 3", "between 4 and")
    assert_refused(study(*here, "--pieces", 9), corpus.path, "8 titles, too few for 9 pieces")
    assert_refused(study(*here, "--row", "effective segmentation"), "'effective segmentation'")
    other = write_corpus(tmp_path / "other", {"train": made_up_tokens(3, 9), "validation": made_up_tokens(4, *[9] * 8)})
    assert_refused(study(*here, "--data", other.path), other.path, "is not what", "made up")
    for wrong in (["--sets"], ["--data", corpus.path], ["--repetition", tmp_path / "a.png"]):
        assert_refused(study("table", "perceivers", "--out", copied, *wrong), "--sets needs --data")
    assert not (copied / "sets").exists()
    assert study(*here).code == 0
    assert_refused(study(*here, "--tokens", 80), "tokens = 90, not 80")
    shutil.copy(copied / "sets/human/000.mid", copied / "sets/multi-scale-seed-0/004.mid")
    assert_refused(study(*here), copied / "sets/multi-scale-seed-0", "holds 5 pieces, not 4")


def test_a_corpus_of_few_titles_gives_one_set_of_people(study: Run, copied: Path, options: tuple[object, ...]) -> None:
    outcome = study(*options, "--out", copied, "--pieces", 5, "--row", "DSMR two-scale")
    assert outcome.code == 0, outcome.err
    assert not (copied / "sets/human-2").exists()
    assert "too few titles for a second such set" in outcome.out
    assert "No set of Perceiver AR beside another" in outcome.out
    assert "other people" not in outcome.out


def test_scores_of_a_row_are_means_over_its_seeds() -> None:
    rng = np.random.default_rng(8)
    human, near, far = ([made_up_piece(rng, notes=n).without_pedal() for _ in range(6)] for n in (60, 60, 20))
    features = (*TABLE_I, "near_repetition", "far_repetition")
    one, other = (compare_pieces(human, pieces, features) for pieces in (near, far))
    plan = table_one.Plan(pieces=6, tokens=8192, sampling=Sampling())
    sets = table_one.Sets([Path("human")], {}, "MAESTRO", plan)
    compared = {"Perceiver AR": [one, other], "multi-scale": [one]}
    found = table_one.figures(sets, compared, "Perceiver AR")["rows"]
    for feature in TABLE_I:
        areas = [side.results[feature].figures["oa_reference"]["score"] for side in (one, other)]
        assert found["Perceiver AR"][feature]["oa"] == pytest.approx(np.mean(areas))
        assert found["multi-scale"][feature]["oa_more"] == pytest.approx(areas[0] / np.mean(areas) - 1)
        assert found["Perceiver AR"][feature]["oa_more"] is None
        inside = [side.results[feature].inside for side in (one, other)]
        assert found["Perceiver AR"][feature]["outside"] == (inside == [False, False])
    report = table_one.markdown(sets, compared, "Perceiver AR")
    assert "Not equal to the paper" not in report
    assert [cell.startswith("**") for cell in table_below(report, "| OA / KLD /")["NC"]] == [
        found[row]["NC"]["outside"] for row in compared
    ]
