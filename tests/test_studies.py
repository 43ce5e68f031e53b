"""Studies: rows trained alike, figures kept and resumed, tables beside the paper's, bad input in one line."""

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Outcome, Run
from PIL import Image
from tiny import made_up_tokens, tiny_config, write_corpus

from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.horizons import HorizonSchedule
from ritornello.studies import measuring
from ritornello.studies.results import result_path
from ritornello.studies.runs import run_study
from ritornello.studies.settings import SETTINGS, StudySettings
from ritornello.studies.summary import Row, figures_of, over_seeds, rows_of
from ritornello.studies.table import markdown
from ritornello.training import fitting, loop, recipes
from ritornello.training.loop import Report

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pieces = {"train": made_up_tokens(0, 60, 80, 70, 90), "validation": made_up_tokens(1, 50, 70, 60)}
    return write_corpus(tmp_path_factory.mktemp("study") / "corpus", pieces)


def play_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time what a token costs after fewer tokens, and fewer of them."""
    for name, value in (("PLAYED_BEFORE_TOKENS", 128), ("STRETCHES", 2), ("STRETCH_TOKENS", 16)):
        monkeypatch.setattr(measuring, name, value)


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    """A recipe of two small layers that validates every fourth of twelve steps."""
    model = tiny_config(schedule=HorizonSchedule((24, 8)))
    recipe = replace(recipes.tiny(), name="mini", model=model, lanes=2, validate_every_steps=4, validation_pieces=None)
    monkeypatch.setitem(recipes.RECIPES, "mini", lambda: recipe)
    play_briefly(monkeypatch)
    return StudySettings(recipe="mini", steps=12, seeds=1, budget_tokens=32, pieces=2)


# A run.


class StoppedError(Exception):
    pass


def stop_at_first_validation(monkeypatch: pytest.MonkeyPatch, how: Callable[[], None]) -> None:
    """Other reports come by the clock: on a slow machine there are some before."""

    @contextmanager
    def watch(name: str) -> Iterator[Callable[[Report], None]]:
        yield lambda report: how() if report.validation is not None else None

    monkeypatch.setattr(measuring, "watch_plainly", watch)


def without_clock(figures: dict[str, Any]) -> dict[str, Any]:
    training = {k: v for k, v in figures["training"].items() if k in ("tokens", "best_step", "log")}
    training["log"] = [{k: v for k, v in line.items() if k != "seconds"} for line in training["log"]]
    playing = {k: v for k, v in figures["playing"].items() if k != "cpu_seconds_per_token"}
    return {**figures, "training": training, "playing": playing}


def run(corpus: Corpus, out: Path, settings: StudySettings, row: str = "two-scale") -> dict[str, Any] | None:
    done = measuring.one_run(corpus, out, settings, row, 0, CPU)
    path = result_path(out, row, 0)
    assert path.exists() == done
    return json.loads(path.read_text()) if done else None


def test_a_stopped_run_that_goes_on_gives_the_figures_of_one_that_was_not(
    corpus: Corpus, mini: StudySettings, tmp_path: Path
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
        last = load_checkpoint(tmp_path / name / "training/two-scale-seed-0/last").progress["step"]
        assert last == (4 if name == "asked" else 0)
        resumed = run(corpus, tmp_path / name, mini)
        assert whole is not None
        assert resumed is not None
        assert without_clock(resumed) == without_clock(whole)


def raise_stopped() -> None:
    raise StoppedError


def test_a_run_that_goes_on_keeps_the_peak_of_the_process_before(
    corpus: Corpus, mini: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(*, idle: int, peak: int) -> None:
        monkeypatch.setattr(measuring, "memory_peak_bytes", lambda device: idle)
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
    corpus: Corpus, mini: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_the_figures_hold_together(corpus: Corpus, mini: StudySettings, tmp_path: Path) -> None:
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
    assert figures["material"]["returning"] == {"tokens": 0, "nats_per_token": None}
    assert (figures["schedule"], figures["seed"], figures["row"]) == ("2xunlimited", 0, "full memory")


def test_speed_leaves_validations_out() -> None:
    journal: list[dict[str, Any]] = [
        {"tokens": 100, "seconds": 1.0, "nats": 5.0},
        {"tokens": 200, "seconds": 2.0, "nats": 5.0},
        {"tokens": 300, "seconds": 9.0, "validation": 5.0},
        {"tokens": 300, "seconds": 9.5, "nats": 5.0},
        {"tokens": 400, "seconds": 10.0, "nats": 5.0},
        {"tokens": 500, "seconds": 10.25, "nats": 5.0},
    ]
    assert measuring.speed(journal) == 200  # the median of 100, 200 and 400
    assert measuring.speed(journal[:1]) is None


def test_of_two_rows_the_memories_grow() -> None:
    rows = StudySettings().recipes()
    for name in ("full memory", "two-scale"):
        assert rows[f"{name}, growing"] == replace(rows[name], growing=0.5)
    assert {recipe.growing for name, recipe in rows.items() if not name.endswith("growing")} == {0}


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
        return int(load_checkpoint(folder / "last").progress["step"])

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
    assert not result_path(tmp_path, "uniform", 0).exists()


def test_two_at_a_time_give_the_figures_of_one_after_another(corpus: Corpus, tmp_path: Path) -> None:
    options = ("--recipe", "tiny", "--steps", "3", "--row", "uniform", "--row", "two-scale", "--seeds", "1")
    for out, jobs in ((tmp_path / "1", "1"), (tmp_path / "2", "2")):
        with study_process(corpus, out, *options, "--pieces", "2", "--jobs", jobs) as process:
            _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "uniform-seed-0: 100%" in said
    for row in ("uniform", "two-scale"):
        one, two = (json.loads(result_path(tmp_path / jobs, row, 0).read_text())["evaluation"] for jobs in ("1", "2"))
        assert one["nats_per_token"] == pytest.approx(two["nats_per_token"], rel=1e-4)  # threads add in another order


def test_what_goes_wrong_in_one_of_two_stops_the_other_and_is_told(corpus: Corpus, tmp_path: Path) -> None:
    options = ("--recipe", "tiny", "--steps", "100000", "--row", "uniform", "--row", "two-scale", "--seeds", "1")
    (tmp_path / "training").mkdir()
    (tmp_path / "training/uniform-seed-0").write_text("no folder")
    with study_process(corpus, tmp_path, *options, "--jobs", "2") as process:
        _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "uniform-seed-0: cannot be made" in said
    assert load_checkpoint(tmp_path / "training/two-scale-seed-0/last").progress["step"] < 100_000


def test_what_is_done_is_not_done_again(corpus: Corpus, mini: StudySettings, tmp_path: Path) -> None:
    settings = replace(mini, rows=("uniform",))
    write_whole(result_path(tmp_path, "uniform", 0), "{}")
    said: list[str] = []
    assert run_study(corpus, tmp_path, settings, device="cpu", say=said.append)
    assert said == []
    assert result_path(tmp_path, "uniform", 0).read_text() == "{}"


# What the runs come to.


def result(row: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Figures of a run as they are written, with round numbers: two pieces, of 100 and 300 tokens."""
    schedules = {"full memory": "4xunlimited", "two-scale": "1024, 3x256", "binary, low layers": "2x896, 2x0"}
    nats = changes.pop("nats", (200.0, 600.0))
    per_token = sum(nats) / 400
    figures = {
        "row": row,
        "schedule": schedules.get(row, "2x0, 2x896"),
        "seed": seed,
        "settings": {
            "steps": 60,
            "legal": False,
            "precision": "fp32",
            "recipe_settings": {"model": {"width": 64, "heads": 2, "segment_tokens": 256}, "lanes": 4},
            "corpus": "Etudes",
            "corpus_tokens": {"train": 123456, "validation": 400},
        },
        "parameters": 250_000,
        "machine": {"device": "an abacus", "threads": 2, "torch": "2.9"},
        "training": {
            "tokens": 61440,
            "seconds": 10.0,
            "best_step": 60,
            "tokens_per_s": 1000.0,
            "idle_bytes": 10_000_000,
            "peak_bytes": 50_000_000,
            "log": [{"tokens": 100 * i, "seconds": i, "nats": 3 - i / 10} for i in range(1, 7)],
        },
        "evaluation": {
            "pieces": 2,
            "tokens": 400,
            "nats_per_token": per_token,
            "perplexity": math.exp(per_token),
            "by_position": [
                {"from": 0, "to": 128, "tokens": 228, "nats_per_token": 2.5},
                {"from": 128, "to": None, "tokens": 172, "nats_per_token": 1.5},
            ],
        },
        "by_piece": [{"nats": n, "tokens": t} for n, t in zip(nats, (100, 300))],
        "material": {"returning": {"tokens": 5, "nats_per_token": 1.25}, "new": {"tokens": 7, "nats_per_token": 2.25}},
        "cuts": [{"most_tokens": 0, "budget_tokens": 0, "nats_per_token": 2.75}],
    }
    figures["training"] |= changes  # type: ignore[operator]
    return figures


def row_named(results: list[dict[str, Any]], name: str) -> Row:
    return next(row for row in rows_of(results) if row.name == name)


def test_mean_and_spread_over_seeds() -> None:
    assert over_seeds([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt(13)))  # (9 + 1 + 16) / 2
    assert over_seeds([7.0]) == (7.0, None)


def test_the_error_of_a_difference_is_that_of_paired_pieces() -> None:
    results = [result("full memory"), result("two-scale", nats=(210.0, 660.0))]
    full, two = row_named(results, "full memory"), row_named(results, "two-scale")
    # Differences 10 and 60 nats, 70 in 400 tokens; residuals 10 - 17.5 and 60 - 52.5; sqrt(2 / 1 x 112.5) / 400.
    assert two.behind(full) == (pytest.approx(0.175), pytest.approx(0.0375))
    assert full.behind(two) == (pytest.approx(-0.175), pytest.approx(0.0375))


def test_differences_are_paired_by_seed_and_averaged_before_pieces_are_compared() -> None:
    results = [
        result("full memory", 0),
        result("full memory", 1, nats=(300.0, 900.0)),
        result("full memory", 2, nats=(1.0, 1.0)),
        result("two-scale", 1, nats=(310.0, 1020.0)),  # 10 and 120 more
        result("two-scale", 0, nats=(210.0, 600.0)),  # 10 and 0 more: 10 and 60 in the mean
    ]
    full, two = row_named(results, "full memory"), row_named(results, "two-scale")
    assert two.behind(full) == (pytest.approx(0.175), pytest.approx(0.0375))
    assert two.seeds_behind(full) == (2, 2)
    assert Row("two-scale", two.runs[:1]).behind(Row("full memory", full.runs[1:])) is None


def test_the_standard_error_is_the_jackknife_s_where_pieces_are_of_one_length() -> None:
    """Another way to the same figure: leave one piece out at a time."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.uniform(1, 3, (2, 12)) * 50
    runs = [result("two-scale"), result("full memory")]
    for run_, nats in zip(runs, (ours, theirs)):
        run_["by_piece"] = [{"nats": float(n), "tokens": 50} for n in nats]
    two, full = (Row(run_["row"], [run_]) for run_ in runs)
    left_out = [(np.delete(ours - theirs, i) / 50).mean() for i in range(12)]
    error = math.sqrt(11 / 12 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert two.behind(full) == (pytest.approx(np.mean(ours - theirs) / 50), pytest.approx(error))


def test_ratios_are_to_full_memory_beside_the_paper_s() -> None:
    two_scale = result("two-scale", nats=(220.0, 600.0), tokens_per_s=1500.0, peak_bytes=30_000_000)
    results = [result("full memory"), two_scale]
    figures = figures_of(row_named(results, "two-scale"), row_named(results, "full memory"))
    assert figures["ratios"] == {
        "perplexity": pytest.approx(math.exp(0.05)),
        "tokens_per_s": 1.5,
        "peak_bytes": 0.5,  # 20 of 40 MB beyond the idle process
        "state_bytes": pytest.approx(1792 / 65536),
    }
    assert figures["paper_ratios"] == {
        "perplexity": pytest.approx(5.96 / 5.98),
        "tokens_per_s": pytest.approx(10339 / 7618),
        "peak_bytes": pytest.approx(6.3 / 15.5),
    }
    assert figures["state_bytes"] == 1792 * 2 * 64 * 4
    assert json.loads(json.dumps(figures)) == figures


def test_what_could_not_be_measured_is_left_out() -> None:
    results = [result("full memory", tokens_per_s=None, peak_bytes=10_000_000), result("two-scale")]
    figures = figures_of(row_named(results, "two-scale"), row_named(results, "full memory"))
    assert figures["ratios"]["tokens_per_s"] is None
    assert figures["ratios"]["peak_bytes"] is None
    assert "nan" not in markdown(results)


# The table.


def table_below(report: str, heading: str) -> dict[str, list[str]]:
    """Cells by row of the first table after a heading."""
    lines = report.split(heading)[1].split("\n| --- |")[1].split("\n")[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {line[0]: line[1:] for line in cells}


def test_the_table_has_our_figures_beside_the_paper_s() -> None:
    two_scale = result("two-scale", nats=(210.0, 660.0), tokens_per_s=1500.0, peak_bytes=30_000_000)
    report = markdown([two_scale, result("full memory", 0), result("full memory", 1)])
    table = table_below(report, "## Perplexity")
    assert list(table) == ["full memory", "two-scale"]
    # e^2 = 7.389 and e^0.175 = 1.191; 5.96 / 5.98 = 0.997, 10,339 / 7,618 = 1.36, 6.3 / 15.5 = 0.41; 1,792 / 65,536.
    assert table["full memory"] == [
        *("1.000", "1.000", "1.00", "1.00", "1.00", "1.00", "1.000"),
        *("7.389 ± 0.000", "5.98", "", "`4xunlimited`"),
    ]
    assert table["two-scale"] == [
        *("1.191", "0.997", "1.50", "1.36", "0.50", "0.41", "0.027"),
        *("8.802", "5.96", "+0.1750 ± 0.0375", "`1024, 3x256`"),
    ]


def test_the_report_says_what_was_equal_and_what_was_not() -> None:
    slow = result("two-scale")
    slow["machine"] = {"device": "a slide rule", "threads": 1, "torch": "2.9"}
    report = markdown([slow, result("full memory", 0), result("full memory", 1)])
    for words in (
        "Etudes; 123,456 tokens",
        "0.25 M parameters in 4 layers of width 64",
        "60 steps in 4 lanes, 61,440 tokens",
        "2 whole validation pieces (400 tokens)",
        "Budget of the limited rows: 1,792 tokens",
        "Seeds: 0, 1; two-scale only 0.",
        "Not equal, machines: a slide rule, threads: 1, torch 2.9; an abacus, threads: 2, torch 2.9;",
        "its data are MAESTRO",
    ):
        assert words in report
    assert "Not equal, machines" not in markdown([result("full memory"), result("two-scale")])


def test_groups_and_memories_that_grow_are_said() -> None:
    plain, grown = result("full memory"), result("full memory, growing") | {"recipe": {"growing": 0.25}}
    plain["settings"]["recipe_settings"]["groups"] = 3
    report = markdown([plain, grown])
    assert "60 steps in 3 groups of 4 lanes that take turns, 61,440 tokens" in report
    assert "in the first 25% of training no layer sees more of its memory" in report
    assert "Growing" not in markdown([plain])


def test_layers_that_stand_in_for_each_other_are_side_by_side() -> None:
    low = result("binary, low layers", nats=(210.0, 660.0))
    report = markdown([result("full memory"), low, result("binary, high layers")])
    table = table_below(report, "## Can one layer")
    assert table["binary, low layers"] == ["1, 2", "1,792", "8.802", "+0.1750 ± 0.0375"]
    assert table["binary, high layers"] == ["3, 4", "1,792", "7.389", ""]
    assert "0.1750 nats/token behind the best, 4.7 times the standard error" in report
    assert "with 1 of 1 seeds" in report
    assert "## Can one layer" not in markdown([result("full memory"), low])


def test_without_full_memory_there_are_no_ratios_but_the_paper_s() -> None:
    report = markdown([result("two-scale")])
    assert table_below(report, "## Perplexity")["two-scale"][:8] == ["", "0.997", "", "1.36", "", "0.41", "", "7.389"]
    assert "ours are missing" in report


# The command line.


@pytest.fixture
def study(command: Run) -> Run:
    """The verb."""
    return partial(command, "study")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    out = tmp_path / "finished"
    rows = ("full memory", "two-scale", "binary, low layers", "binary, high layers")
    for row, seed in ((row, seed) for row in rows for seed in (0, 1)):
        nats = (200.0 + len(row), 600.0 + seed)
        write_whole(result_path(out, row, seed), json.dumps(result(row, seed, nats=nats)))
    return out


def test_the_table_is_written_printed_and_drawn(study: Run, finished: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "table.png", tmp_path / "curves.png"
    outcome = study("table", "dsmr", "--out", finished, "--png", pictures[0], "--curves", pictures[1])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("## Perplexity")
    for picture in pictures:
        with Image.open(picture) as image:
            assert min(image.size) > 200
            assert len(set(image.convert("RGB").resize((200, 80)).tobytes())) > 20
    report = tmp_path / "report.md"
    outcome = study("table", "dsmr", "--out", finished, "--markdown", report, "--json")
    assert report.read_text().startswith("## Perplexity")
    found = json.loads(outcome.out)
    assert found["study"] == "dsmr"
    assert found["rows"][0]["row"] == "full memory"
    assert found["rows"][0]["seeds"] == [0, 1]
    assert found["rows"][0]["paper"]["perplexity"] == 5.98


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", 0], ["steps is 0", "between 1 and"]),
        (["--seeds", 0], ["seeds is 0"]),
        (["--seeds", 101], ["seeds is 101"]),
        (["--jobs", 0], ["jobs is 0"]),
        (["--pieces", 0], ["pieces is 0"]),
        (["--row", "three-scale"], ["'three-scale'", "two-scale; binary, low layers"]),
        (["--budget", 1], ["budget of 1 tokens", "2 layers"]),
        (["--budget", 12.5], ["--budget", "integer"]),
        (["--budget", -32], ["budget=-32"]),
        (["--recipe", "huge"], ["'huge'", "tiny"]),
        (["--recipe", "perceivers_tiny"], ["without horizons"]),
        (["--device", "abacus"], ["'abacus'"]),
        (["--precision", "fp8"], ["fp8"]),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    study: Run, corpus: Corpus, mini: StudySettings, tmp_path: Path, options: list[object], words: list[str]
) -> None:
    out = tmp_path / "out"
    refused(study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", *options), *words)
    assert not out.exists()


def test_settings_are_checked_when_they_are_made() -> None:
    with pytest.raises(RitornelloError, match="budget of 3 tokens is smaller than the depth of 8"):
        StudySettings(budget_tokens=3)


def test_a_study_goes_on_with_its_own_settings_only(
    study: Run, corpus: Corpus, mini: StudySettings, tmp_path: Path
) -> None:
    settings = replace(mini, rows=("uniform",))
    write_whole(result_path(tmp_path, "uniform", 0), "{}")
    options = ("--data", corpus.path, "--out", tmp_path, "--recipe", "mini", "--seeds", 1, "--row", "uniform")
    assert run_study(corpus, tmp_path, settings, device="cpu")
    kept = (tmp_path / SETTINGS).read_text()
    assert study("run", "dsmr", *options, "--steps", 12, "--pieces", 2).code == 0
    refused(study("run", "dsmr", *options, "--steps", 13, "--pieces", 2), "steps = 12, not 13", "another folder")
    refused(study("run", "dsmr", *options, "--steps", 12, "--pieces", 3), "pieces = 2, not 3")
    assert (tmp_path / SETTINGS).read_text() == kept


def test_settings_of_the_recipe_are_compared_one_by_one(corpus: Corpus, mini: StudySettings, tmp_path: Path) -> None:
    """A setting that an older study's file does not know cannot have been another."""
    settings = replace(mini, rows=("uniform",))
    write_whole(result_path(tmp_path, "uniform", 0), "{}")
    before = json.loads(json.dumps(settings.as_json(corpus)))
    del before["recipe_settings"]["clip_norm"]
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    assert run_study(corpus, tmp_path, settings, device="cpu")
    before["recipe_settings"]["model"]["width"] = 48
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    with pytest.raises(RitornelloError, match=r"recipe_settings\.model\.width = 48, not 32"):
        run_study(corpus, tmp_path, settings, device="cpu")


def test_a_setting_that_is_newer_than_a_study_was_as_its_default(
    corpus: Corpus, mini: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(mini, rows=("uniform",))
    before = json.loads(json.dumps(settings.as_json(corpus)))
    del before["recipe_settings"]["groups"]
    write_whole(tmp_path / SETTINGS, json.dumps(before))
    recipe = replace(recipes.recipe_named("mini"), groups=2)
    monkeypatch.setitem(recipes.RECIPES, "mini", lambda: recipe)
    with pytest.raises(RitornelloError, match=r"recipe_settings\.groups = 1, not 2"):
        run_study(corpus, tmp_path, settings, device="cpu")


def test_a_row_that_would_not_fit_is_refused_before_any_is_trained(
    study: Run, corpus: Corpus, mini: StudySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(r.tokens for split in ("train", "validation") for r in corpus.pieces(split))
    # Two unlimited layers of width 32 in float32: keys and values of 2 lanes, before and after a step.
    needed = 2 * longest * 2 * 32 * 4 * 2 * 2
    out = tmp_path / "out"
    monkeypatch.setattr(fitting, "free_bytes", lambda device: needed - 1)
    outcome = study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", "--device", "cpu")
    refused(outcome, "2xunlimited", f"{needed / 1000:,.1f} kB", f"{longest:,} tokens")
    assert not out.exists()
    # One of its rows alone, two seeds of it at a time.
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 2 * needed - 1)
    two = ("--row", "full memory", "--seeds", 2, "--jobs", 2)
    outcome = study("run", "dsmr", "--data", corpus.path, "--out", out, "--recipe", "mini", "--device", "cpu", *two)
    refused(outcome, "jobs is 2", f"{2 * needed / 1e6:,.1f} MB")
    assert not out.exists()


def test_a_folder_without_runs_and_files_that_are_none_are_one_line(study: Run, finished: Path) -> None:
    refused(study("table", "dsmr", "--out", finished / "no"), "no run of a study")
    refused(study("table", "perceivers", "--out", finished), "runs of the study dsmr, not of perceivers")
    refused(study("table", "fugues", "--out", finished), "'fugues'")
    refused(study("table", "dsmr", "--out", finished, "--png", finished / "no" / "t.png"), "folder does not exist")
    damaged = result_path(finished, "two-scale", 1)
    damaged.write_text(damaged.read_text()[:100])
    refused(study("table", "dsmr", "--out", finished), damaged.name)


# Files.


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_whole(path, "ä")
    write_whole(path, "ö")
    assert path.read_text(encoding="utf-8") == "ö"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("where", ["file/below", "folder"])
def test_a_place_that_cannot_be_written_is_one_error_and_stays_as_it_was(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RitornelloError, match="cannot be written"):
        write_whole(tmp_path / where, "text")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
