"""A study: its runs start alike, stop and go on, and settings that cannot be are refused before any is trained."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run, assert_refused
from short_studies import assert_drawn, conditions, play_briefly, rows_of, table_below
from tiny import SEGMENT_TOKENS, made_up_tokens, tiny_config, write_corpus

from ritornello.charts import COLOURS
from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.horizons import HorizonSchedule
from ritornello.studies import declared, measure
from ritornello.studies.record import Conditions, record_path, to_json
from ritornello.studies.run import run_study
from ritornello.studies.study import SETTINGS, recipes_of, steps_of
from ritornello.training import fitting, loop, recipes
from ritornello.training.loop import Report

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pieces = {"train": made_up_tokens(0, 60, 80, 70, 90), "validation": made_up_tokens(1, 50, 70, 60)}
    return write_corpus(tmp_path_factory.mktemp("study") / "corpus", pieces)


@pytest.fixture
def mini(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Conditions:
    """A recipe of two small layers that validates every fourth of twelve steps."""
    model = tiny_config(schedule=HorizonSchedule((24, 8)))
    recipe = replace(recipes.tiny(), name="mini", model=model, lanes=2, validate_every_steps=4, validation_pieces=None)
    monkeypatch.setitem(recipes.RECIPES, "mini", lambda: recipe)
    play_briefly(monkeypatch)
    return conditions(corpus=corpus, recipe="mini", steps=12, budget_tokens=32, pieces=2)


# A run.


class StoppedError(Exception):
    pass


def stop_at_first_validation(monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Other reports come by the clock: on a slow machine there are some before."""

    def plainly(name: str) -> Callable[[Report], None]:
        return lambda report: how() if report.validation is not None else None

    monkeypatch.setattr(measure, "plainly", plainly)


def without_clock(figures: dict[str, Any]) -> dict[str, Any]:
    training = {k: v for k, v in figures["training"].items() if k in ("tokens", "best_step", "log")}
    training["log"] = [{k: v for k, v in line.items() if k != "seconds"} for line in training["log"]]
    playing = {k: v for k, v in figures["playing"].items() if k != "cpu_seconds_per_token"}
    return {**figures, "training": training, "playing": playing}


def run(corpus: Corpus, out: Path, settings: Conditions, row: str = "two-scale") -> dict[str, Any] | None:
    done = measure.measure_run(corpus, out, settings, row, 0, CPU)
    path = record_path(out, row, 0)
    assert path.exists() == done
    return json.loads(path.read_text()) if done else None


def test_a_stopped_run_that_goes_on_gives_the_figures_of_one_that_was_not(
    corpus: Corpus, mini: Conditions, tmp_path: Path
) -> None:
    whole = run(corpus, tmp_path / "whole", mini)
    for name, how in {"asked": lambda: signal.raise_signal(signal.SIGTERM), "killed": raise_stopped}.items():
        with pytest.MonkeyPatch.context() as patched:
            stop_at_first_validation(patched, how)
            if name == "asked":
                assert run(corpus, tmp_path / name, mini) is None
            else:
                with pytest.raises(StoppedError):
                    run(corpus, tmp_path / name, mini)
        last = load_checkpoint(tmp_path / name / "training/two-scale-seed-0/last").run["step"]
        assert last == (4 if name == "asked" else 0)
        resumed = run(corpus, tmp_path / name, mini)
        assert whole is not None
        assert resumed is not None
        assert without_clock(resumed) == without_clock(whole)


def raise_stopped() -> None:
    raise StoppedError


def test_a_run_that_goes_on_keeps_the_peak_of_the_process_before(
    corpus: Corpus, mini: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(*, idle: int, peak: int) -> None:
        monkeypatch.setattr(measure, "memory_peak_bytes", lambda device: idle)
        monkeypatch.setattr(loop, "memory_peak_bytes", lambda device: peak)

    process(idle=100, peak=500)
    with pytest.MonkeyPatch.context() as patched:
        stop_at_first_validation(patched, lambda: signal.raise_signal(signal.SIGTERM))
        assert run(corpus, tmp_path, mini) is None
    process(idle=300, peak=600)
    figures = run(corpus, tmp_path, mini)
    assert figures is not None
    assert (figures["training"]["idle_bytes"], figures["training"]["peak_bytes"]) == (100, 500)


def test_rows_begin_with_the_same_weights_and_read_the_same_tokens(
    corpus: Corpus, mini: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY_STEPS", 1)
    logs = []
    for row in ("binary, low layers", "binary, high layers"):
        figures = run(corpus, tmp_path, mini, row)
        assert figures is not None
        logs.append([line for line in figures["training"]["log"] if "nats" in line])
    low, high = logs
    assert [line["tokens"] for line in low] == [line["tokens"] for line in high]
    assert low[0]["nats"] == high[0]["nats"]  # in a piece's first segment nothing is remembered yet
    assert low[-1]["nats"] != high[-1]["nats"]


def test_the_figures_hold_together(corpus: Corpus, mini: Conditions, tmp_path: Path) -> None:
    figures = run(corpus, tmp_path, replace(mini, pieces=99), "full memory")
    assert figures is not None
    lengths = [record.tokens for record in corpus.pieces("validation")]
    assert [piece["tokens"] for piece in figures["by_piece"]] == lengths
    nats = figures["evaluation"]["nats_per_token"]
    assert sum(piece["nats"] for piece in figures["by_piece"]) / sum(lengths) == pytest.approx(nats, rel=1e-9)
    assert figures["evaluation"]["kind"] == "free"
    assert [(cut["most_tokens"], cut["budget_tokens"]) for cut in figures["cuts"]] == [
        (0, 0),
        (128, 256),
        (512, 1024),
        (2048, 4096),
    ]
    assert figures["cuts"][-1]["nats_per_token"] == pytest.approx(nats, rel=1e-7)  # no piece is as long as that
    assert figures["cuts"][0]["nats_per_token"] != pytest.approx(nats, rel=1e-7)
    # No piece is longer than the distance to a return.
    assert figures["material"]["returning"] == {"tokens": 0}
    assert sum(age["tokens"] for age in figures["material"]["by_age"]) == sum(lengths)  # each token in one class
    assert (figures["model"]["schedule"], figures["seed"], figures["row"]) == ("2xunlimited", 0, "full memory")


def test_speed_leaves_validations_out() -> None:
    journal: list[dict[str, Any]] = [
        {"tokens": 100, "seconds": 1.0, "nats": 5.0},
        {"tokens": 200, "seconds": 2.0, "nats": 5.0},
        {"tokens": 300, "seconds": 9.0, "validation": 5.0},
        {"tokens": 300, "seconds": 9.5, "nats": 5.0},
        {"tokens": 400, "seconds": 10.0, "nats": 5.0},
        {"tokens": 500, "seconds": 10.25, "nats": 5.0},
    ]
    assert measure.speed(journal) == 200  # the median of 100, 200 and 400
    assert measure.speed(journal[:1]) is None


def test_of_two_rows_the_memories_grow() -> None:
    rows = rows_of()
    for name in ("full memory", "two-scale"):
        assert rows[f"{name}, growing"] == replace(rows[name], horizon_warmup_share=0.5)
    assert {recipe.horizon_warmup_share for name, recipe in rows.items() if not name.endswith("growing")} == {0}


@pytest.mark.parametrize(
    ("study", "recipe"), [("dsmr", "base"), ("dsmr", "small"), ("perceivers", "perceivers_base"), ("training", "small")]
)
def test_studies_read_every_performance_whatever_recipe_they_are_made_from(study: str, recipe: str) -> None:
    rows = rows_of(study, recipe=recipe)
    assert {name for name, row in rows.items() if row.balance_titles} <= {"every title as often"}
    assert len({row.balance_titles for row in rows.values()}) == (2 if study == "training" else 1)


def test_every_row_has_a_colour_of_its_own() -> None:
    assert len(rows_of()) == 12 <= len(set(COLOURS))


RATES = """
from dataclasses import replace
from ritornello.studies import report
from ritornello.studies.study import Study

STUDIES = (
    Study(
        name="rates",
        recipe="mini",
        rows=lambda recipe, budget_tokens: {"slow": replace(recipe, matrix_lr=0.0001), "fast": recipe},
        of_memory=False,
        baseline="fast",
        heading="Rates",
        columns=(report.ROW, report.nats_above("behind", "nats/token behind fast")),
    ),
)
"""


def test_a_new_study_is_one_file(
    study: Run, corpus: Corpus, mini: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/rates_file.py").write_text(RATES)
    monkeypatch.setattr(declared, "__path__", [*declared.__path__, str(tmp_path / "mine")])
    asked = conditions("rates", corpus, steps=4, pieces=2)
    for row in recipes_of(asked):
        assert measure.measure_run(corpus, tmp_path, asked, row, 0, CPU)
    outcome = study("table", "rates", "--out", tmp_path, "--curves", tmp_path / "curves.png")
    assert outcome.code == 0, outcome.err
    slow, fast = (run_["evaluation"]["nats_per_token"] for run_ in records_of(tmp_path, "slow", "fast"))
    table = table_below(outcome.out, "## Rates")
    assert table["fast"] == [""]
    assert table["slow"][0].startswith(f"{slow - fast:+.4f} [")
    assert_drawn(tmp_path / "curves.png")


def records_of(out: Path, *rows: str) -> list[dict[str, Any]]:
    return [json.loads(record_path(out, row, 0).read_text()) for row in rows]


# A study, in processes of its own.


@contextmanager
def study_process(corpus: Corpus, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    words = ["study", "run", "dsmr", "--data", str(corpus.path), "--out", str(out), "--device", "cpu", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "ritornello", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(reached: Callable[[], bool]) -> None:
    for _ in range(1200):  # seconds where nothing else runs
        if reached():
            return
        time.sleep(0.1)
    pytest.fail("it was not reached in time")


def test_a_study_saves_when_it_is_stopped_and_when_it_is_killed(corpus: Corpus, tmp_path: Path) -> None:
    options = ("--recipe", "tiny", "--steps", "100000", "--row", "uniform", "--seeds", "1")
    folder = tmp_path / "training/uniform-seed-0"
    log = folder / "log.jsonl"

    def lines() -> int:
        return log.read_text().count("\n") if log.exists() else 0

    def saved_step() -> int:
        return int(load_checkpoint(folder / "last").run["step"])

    with study_process(corpus, tmp_path, *options) as process:
        until(lambda: lines() > 2)
        process.kill()
    until(lambda: saved_step() > 0)  # by the child that is left alone
    first = saved_step()
    with study_process(corpus, tmp_path, *options) as process:
        until(lambda: lines() > first // 10 + 2)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does to all that run in a terminal
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped; the same command goes on" in said
    assert "Traceback" not in said
    assert saved_step() > first
    assert not record_path(tmp_path, "uniform", 0).exists()


def test_two_at_a_time_give_the_figures_of_one_after_another(corpus: Corpus, tmp_path: Path) -> None:
    options = ("--recipe", "tiny", "--steps", "3", "--row", "uniform", "--row", "two-scale", "--seeds", "1")
    for out, jobs in ((tmp_path / "1", "1"), (tmp_path / "2", "2")):
        with study_process(corpus, out, *options, "--pieces", "2", "--jobs", jobs) as process:
            _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "uniform-seed-0: 100%" in said
    for row in ("uniform", "two-scale"):
        one, two = (json.loads(record_path(tmp_path / jobs, row, 0).read_text())["evaluation"] for jobs in ("1", "2"))
        assert one["nats_per_token"] == pytest.approx(two["nats_per_token"], rel=1e-4)  # threads add in another order


def test_what_goes_wrong_in_one_of_two_stops_the_other_and_is_told(corpus: Corpus, tmp_path: Path) -> None:
    options = ("--recipe", "tiny", "--steps", "100000", "--row", "uniform", "--row", "two-scale", "--seeds", "1")
    (tmp_path / "training").mkdir()
    (tmp_path / "training/uniform-seed-0").write_text("no folder")
    with study_process(corpus, tmp_path, *options, "--jobs", "2") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "uniform-seed-0: cannot be made" in said
    assert load_checkpoint(tmp_path / "training/two-scale-seed-0/last").run["step"] < 100_000


def test_what_is_done_is_not_done_again(corpus: Corpus, mini: Conditions, tmp_path: Path) -> None:
    write_whole(record_path(tmp_path, "uniform", 0), "{}")
    said: list[str] = []
    assert run_study(corpus, tmp_path, mini, device="cpu", rows=["uniform"], seeds=1, say=said.append)
    assert said == []
    assert record_path(tmp_path, "uniform", 0).read_text() == "{}"


# The command line.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], ["steps is 0", "between 1 and"]),
        (["--lanes", 0], ["lanes is 0"]),
        (["--piece-tokens", 0], ["piece_tokens is 0"]),
        (["--seeds", 0], ["seeds is 0"]),
        (["--seeds", 101], ["seeds is 101"]),
        (["--jobs", 0], ["jobs is 0"]),
        (["--pieces", 0], ["pieces is 0"]),
        (["--row", "three-scale"], ["'three-scale'", "two-scale; binary, low layers"]),
        (["--budget", 1], ["budget of 1 token ", "2 layers"]),
        (["--budget", 12.5], ["--budget", "integer"]),
        (["--budget", -32], ["budget=-32"]),
        (["--recipe", "huge"], ["'huge'", "tiny"]),
        (["--recipe", "perceivers_tiny"], ["without horizons"]),
        (["--device", "abacus"], ["'abacus'"]),
        (["--precision", "fp8"], ["fp8"]),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    study: Run, corpus: Corpus, mini: Conditions, tmp_path: Path, options: list[object], words: list[str]
) -> None:
    out = tmp_path / "out"
    assert_refused(study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", *options), *words)
    assert not out.exists()


def test_lanes_and_pieces_length_are_those_of_every_row_and_of_the_folder(
    study: Run, corpus: Corpus, mini: Conditions, tmp_path: Path
) -> None:
    settings = conditions(corpus=corpus, recipe="mini", steps=12, budget_tokens=32, lanes=3, piece_tokens=40)
    recipes = recipes_of(settings)
    assert {(recipe.lanes, recipe.piece_tokens) for recipe in recipes.values()} == {(3, 40)}
    assert {steps_of(settings, recipe) for recipe in recipes.values()} == {12}  # steps are of so many lanes
    write_whole(record_path(tmp_path, "uniform", 0), "{}")
    options = ("--data", corpus.path, "--out", tmp_path, "--recipe", "mini", "--seeds", 1, "--row", "uniform")
    assert study("run", "dsmr", *options, "--lanes", 3, "--piece-tokens", 40).code == 0
    assert study("run", "dsmr", *options, "--lanes", 3, "--piece-tokens", 40).code == 0
    other = study("run", "dsmr", *options, "--lanes", 3)
    assert_refused(other, "recipe_settings.piece_tokens = 40, not None", "another folder")
    assert_refused(study("run", "dsmr", *options, "--piece-tokens", 40), "recipe_settings.lanes = 3, not 2")


def test_settings_are_checked_when_they_are_made() -> None:
    with pytest.raises(RitornelloError, match="budget of 3 tokens is smaller than the depth of 8"):
        rows_of(budget_tokens=3)


def test_a_study_goes_on_with_its_own_settings_only(
    study: Run, corpus: Corpus, mini: Conditions, tmp_path: Path
) -> None:
    write_whole(record_path(tmp_path, "uniform", 0), "{}")
    options = ("--data", corpus.path, "--out", tmp_path, "--recipe", "mini", "--seeds", 1, "--row", "uniform")
    assert run_study(corpus, tmp_path, mini, device="cpu", rows=["uniform"], seeds=1)
    kept = (tmp_path / SETTINGS).read_text()
    assert study("run", "dsmr", *options, "--steps", 12, "--pieces", 2).code == 0
    assert_refused(study("run", "dsmr", *options, "--steps", 13, "--pieces", 2), "steps = 12, not 13", "another folder")
    assert_refused(study("run", "dsmr", *options, "--steps", 12, "--pieces", 3), "pieces = 2, not 3")
    assert (tmp_path / SETTINGS).read_text() == kept


def test_settings_of_the_recipe_are_compared_one_by_one(corpus: Corpus, mini: Conditions, tmp_path: Path) -> None:
    """A setting that an older study's file does not know cannot have been another."""
    write_whole(record_path(tmp_path, "uniform", 0), "{}")
    before = json.loads(json.dumps(to_json(mini)))
    del before["recipe_settings"]["clip_norm"]
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    assert run_study(corpus, tmp_path, mini, device="cpu", rows=["uniform"], seeds=1)
    before["recipe_settings"]["model"]["width"] = 48
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    with pytest.raises(RitornelloError, match=r"recipe_settings\.model\.width = 48, not 32"):
        run_study(corpus, tmp_path, mini, device="cpu", rows=["uniform"], seeds=1)


def test_a_setting_that_is_newer_than_a_study_was_as_its_default(
    corpus: Corpus, mini: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads(json.dumps(to_json(mini)))
    del before["recipe_settings"]["interleave"], before["recipe_settings"]["model"]["qk_bias"]
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    recipe = replace(recipes.recipe_named("mini"), interleave=2)
    monkeypatch.setitem(recipes.RECIPES, "mini", lambda: recipe)
    now = conditions(corpus=corpus, recipe="mini", steps=12, budget_tokens=32, pieces=2)
    with pytest.raises(RitornelloError, match=r"recipe_settings\.interleave = 1, not 2"):
        run_study(corpus, tmp_path, now, device="cpu", rows=["uniform"], seeds=1)


def test_a_row_that_would_not_fit_is_refused_before_any_is_trained(
    study: Run, corpus: Corpus, mini: Conditions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest, validated = (max(r.tokens for r in corpus.pieces(split)) for split in ("train", "validation"))
    segments, more = (math.ceil(tokens / SEGMENT_TOKENS) for tokens in (longest, validated))
    # Two unlimited layers of width 32 in float32: keys and values of 2 lanes that rest, and of a validation's 8, before
    # and after a segment.
    needed = 2 * (2 * segments + 2 * 8 * more) * SEGMENT_TOKENS * 2 * 32 * 4
    out = tmp_path / "out"
    monkeypatch.setattr(fitting, "free_bytes", lambda device: needed - 1)
    outcome = study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", "--device", "cpu")
    assert_refused(outcome, "2xunlimited", f"{needed / 1e6:,.1f} MB in fp32", f"{longest:,} tokens")
    assert not out.exists()
    # One of its rows alone, two seeds of it at a time.
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 2 * needed - 1)
    two = ("--row", "full memory", "--seeds", 2, "--jobs", 2)
    outcome = study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", "--device", "cpu", *two)
    assert_refused(outcome, "jobs is 2", f"{2 * needed / 1e6:,.1f} MB")
    assert not out.exists()
