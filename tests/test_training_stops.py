"""Training: a run that is stopped, killed or out of disk goes on to the bit, and loses nothing that was saved."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import full_disk, one_line
from short_runs import (
    RECIPE,
    assert_same_run,
    equal,
    losses,
    make_corpus,
    stopping_at,
)
from tiny import tiny_config
from torch import Tensor

from ritornello.checkpoint import MANIFEST, load_checkpoint
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.files import whole_file, with_checksum
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR
from ritornello.training import folder, loop
from ritornello.training.folder import Journal
from ritornello.training.loop import Report, train
from ritornello.training.readers import Reader
from ritornello.training.recipes import Recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("training") / "corpus")


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(corpus, run, RECIPE, seed=11)
    return run


# ---- going on ----


@pytest.mark.parametrize("stops", [(1,), (10,), (13,), (22,), (4, 5, 17), tuple(range(1, 23))], ids=str)
def test_a_run_stopped_anywhere_goes_on_to_the_bit(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, seed=11, report=stopping_at(*stops))
    for stop in stops:
        assert load_checkpoint(run / "last").run["step"] == stop
        train(corpus, run, RECIPE, resume=True, report=stopping_at(*stops))
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("extras", [{}, {"qk_bias": True, "motif_notes": 32}], ids=["plain", "biases and hints"])
def test_groups_of_lanes_go_on_to_the_bit(corpus: Corpus, tmp_path: Path, extras: dict[str, Any]) -> None:
    model = replace(RECIPE.streaming, **extras)
    recipe = replace(RECIPE, interleave=3, horizon_warmup_share=0.7, elastic_share=0.5, model=model)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(corpus, whole, recipe, seed=11)
    train(corpus, stopped, recipe, seed=11, report=stopping_at(8, 13))
    for _ in range(2):
        train(corpus, stopped, recipe, resume=True, report=stopping_at(13))
    assert_same_run(whole, stopped)
    with one_line(whole, "interleave = 3, not 1"):
        train(corpus, whole, replace(recipe, interleave=1), resume=True)


def test_a_setting_that_is_newer_than_a_run_was_as_its_default(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, steps=1)
    manifest = run / "last" / MANIFEST
    written = json.loads(manifest.read_text())
    del written["progress"]["recipe"]["interleave"], written["progress"]["recipe"]["model"]["motif_notes"]
    manifest.write_text(json.dumps(with_checksum(written)))
    with one_line(run, "interleave = 1, not 2"):
        train(corpus, run, replace(RECIPE, interleave=2), resume=True)
    with one_line(run, "model.motif_notes = 0, not 9"):
        train(corpus, run, replace(RECIPE, model=replace(RECIPE.streaming, motif_notes=9)), resume=True)
    train(corpus, run, RECIPE, steps=2, resume=True)
    assert load_checkpoint(run / "last").run["step"] == 2


def spans_of_training(corpus: Corpus, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How much of its memory the model saw, step by step."""
    seen: list[int | None] = []
    real = DSMR.forward

    def forward(self: DSMR, *arguments: Any, **options: Any) -> Any:
        if self.training:
            seen.append(options.get("span_tokens"))
        return real(self, *arguments, **options)

    monkeypatch.setattr(DSMR, "forward", forward)
    train(corpus, run, recipe)
    return seen


def test_what_layers_see_doubles_until_it_is_all(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Horizons of 64 and 16, segments of 16: one segment, two, and all, in as many steps of the first half."""
    recipe = replace(RECIPE, steps=20, horizon_warmup_share=0.5, validate_every_steps=7)
    found = spans_of_training(corpus, tmp_path / "run", recipe, monkeypatch)
    assert found == [16] * 5 + [32] * 5 + [None] * 10
    short = replace(recipe, model=tiny_config(schedule=HorizonSchedule((16, 0))))
    assert set(spans_of_training(corpus, tmp_path / "short", short, monkeypatch)) == {None}


def test_without_a_limit_what_layers_see_grows_to_the_longest_piece(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        RECIPE, model=tiny_config(schedule=HorizonSchedule((None, 16))), steps=20, horizon_warmup_share=1.0
    )
    longest = max(record.tokens for record in corpus.pieces("train"))
    found = spans_of_training(corpus, tmp_path / "run", recipe, monkeypatch)
    assert found == sorted(found, key=lambda seen: seen or 10**9)
    assert found[0] == 16
    assert found[-1] is not None
    assert found[-1] < longest <= 2 * found[-1]


def test_in_an_elastic_share_of_the_steps_layers_see_a_drawn_part_of_their_memories(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Horizons of 128 and 16: a half, a quarter, an eighth of the longer one, or all of it."""
    model = tiny_config(schedule=HorizonSchedule((128, 16)))
    recipe = replace(RECIPE, model=model, steps=60, elastic_share=0.5)
    found = spans_of_training(corpus, tmp_path / "run", recipe, monkeypatch)
    drawn = [seen for seen in found if seen is not None]
    assert 20 <= len(drawn) <= 40
    assert set(drawn) == {16, 32, 64, 128}
    assert max(map(drawn.count, drawn)) < 16
    warm = replace(recipe, horizon_warmup_share=1.0, elastic_share=1.0)
    found = spans_of_training(corpus, tmp_path / "warm", warm, monkeypatch)
    assert all(16 <= seen <= limit for seen, limit in zip(found, [16] * 20 + [32] * 20 + [64] * 20))


def test_the_log_holds_every_loss(uninterrupted: Path) -> None:
    steps = [(step, kind) for step, kind, _ in losses(uninterrupted)]
    assert sorted(steps) == sorted([(10, "nats"), (20, "nats"), *((step, "validation") for step in range(1, 24))])


def test_another_seed_is_another_run(corpus: Corpus, uninterrupted: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "run", RECIPE, seed=12)
    assert losses(tmp_path / "run") != losses(uninterrupted)


def test_validation_does_not_touch_the_training(corpus: Corpus, uninterrupted: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "run", replace(RECIPE, validate_every_steps=1000), seed=11)
    seldom = losses(tmp_path / "run")
    assert [kind for _, kind, _ in seldom] == ["nats", "nats", "validation"]
    assert set(seldom) < set(losses(uninterrupted))


def test_a_signal_in_the_middle_of_a_step_lets_it_finish(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = tmp_path / "run", itertools.count(1)
    real = Reader.nats

    def interrupted(*args: Any) -> Tensor:
        if next(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(Reader, "nats", interrupted)
    train(corpus, run, RECIPE, seed=11)
    assert load_checkpoint(run / "last").run["step"] == 7
    train(corpus, run, RECIPE, resume=True)
    assert_same_run(run, uninterrupted)


def test_a_second_signal_stops_at_once(corpus: Corpus, tmp_path: Path) -> None:
    def twice(_: Report) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "run", RECIPE, report=twice)
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(tmp_path / "run" / "last").run["step"] == 0


def test_a_finished_run_resumed_stays_as_it_is(corpus: Corpus, tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", replace(RECIPE, steps=4)
    best = train(corpus, run, recipe)
    before = losses(run), load_checkpoint(run / "last").tensors()
    assert train(corpus, run, recipe, resume=True) == best
    assert losses(run) == before[0]
    assert equal(load_checkpoint(run / "last").tensors(), before[1])


def test_a_resumed_run_can_be_made_longer(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, steps=3)
    train(corpus, run, RECIPE, steps=5, resume=True)
    assert load_checkpoint(run / "last").run["step"] == 5


def test_trackers_are_told_what_the_log_is_told(corpus: Corpus, tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    for resume in (False, True):
        steps = 20 if resume else 10
        tell = [lambda step, figures: told.append({"step": step, **figures})]
        train(corpus, tmp_path / "run", RECIPE, steps=steps, resume=resume, trackers=tell)
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    assert told == [json.loads(line) for line in lines]
    assert {"nats", "validation"} <= {name for event in told for name in event}


def test_a_log_that_a_kill_cut_short_is_mended(corpus: Corpus, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, seed=11, report=stopping_at(12))
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 13, "validation": 9.9}\n{"step": 14, "valid')
    train(corpus, run, RECIPE, resume=True)
    assert_same_run(run, uninterrupted)


def test_a_kill_while_the_log_is_written_anew_loses_none_of_it(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(uninterrupted / "log.jsonl", tmp_path)

    def cut_short(path: Path, text: str) -> None:
        with whole_file(path) as file:
            file.write(text[: len(text) // 2].encode())
            raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_whole", cut_short)
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path, after_step=100)
    assert losses(tmp_path) == losses(uninterrupted)


# ---- kills ----

KILLED = replace(RECIPE, steps=100, checkpoint_every_s=0, validate_every_steps=25)


def train_until_killed(corpus: str, run: str, resume: str) -> None:
    """What the process that is killed does."""
    train(Corpus.open(corpus), Path(run), KILLED, seed=3, resume=bool(resume))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_run_killed_at_random_moments_goes_on_to_the_bit(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rng = tmp_path / "run", np.random.default_rng()
    code = "import sys, test_training_stops; test_training_stops.train_until_killed(*sys.argv[1:])"
    paths = [str(Path(__file__).parent), *sys.path]
    threads = str(torch.get_num_threads())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": threads}
    reached = [-1]
    for attempt in range(2):
        arguments = [sys.executable, "-c", code, str(corpus.path), str(run), "resume" if attempt else ""]
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
        began_s = time.monotonic()
        while _step(run) <= reached[-1] and process.poll() is None and time.monotonic() < began_s + 120:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), errors
        last = load_checkpoint(run / "last")
        last.tensors()
        last.tensors("training")
        reached.append(last.run["step"])
    assert reached == sorted(reached), "a resumed run began again"
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the runs below are not killed
    train(corpus, run, KILLED, resume=True)
    train(corpus, tmp_path / "whole", KILLED, seed=3)
    assert_same_run(run, tmp_path / "whole")


def _step(run: Path) -> int:
    try:
        return int(json.loads((run / "last" / "checkpoint.json").read_text())["progress"]["step"])
    except FileNotFoundError:
        return -1


def test_a_second_training_in_one_folder_is_refused_while_the_first_goes_on(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(folder, "WAIT_S", 0.0)

    def meanwhile(report: Report) -> None:
        if report.step == 5:
            with one_line(run, "another process"), torch.random.fork_rng():  # as if it were another's
                train(corpus, run, RECIPE, seed=11, resume=True)
        if report.step == 6:
            shutil.copytree(run, tmp_path / "copy")  # the same files, which nobody is training on
            with torch.random.fork_rng():
                train(corpus, tmp_path / "copy", RECIPE, seed=11, resume=True)

    train(corpus, run, RECIPE, seed=11, report=meanwhile)
    assert_same_run(run, uninterrupted)
    assert_same_run(tmp_path / "copy", uninterrupted)


def test_of_two_trainings_started_at_once_the_second_refuses_and_does_not_train_over_the_first(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes when the first has saved nothing yet, and waits for the folder until the first is done."""
    run, refusals, waiting = tmp_path / "run", [], threading.Event()
    check, acquire = loop.check_unused, folder.FileLock.acquire

    def second() -> None:
        try:
            train(corpus, run, RECIPE, seed=12)
        except RitornelloError as error:
            refusals.append(str(error))

    other = threading.Thread(target=second)

    def checking(run: Path) -> None:
        check(run)
        if threading.current_thread() is threading.main_thread():
            other.start()
            assert waiting.wait(60)

    def acquiring(self: Any, *args: Any, **options: Any) -> Any:
        if threading.current_thread() is other:
            waiting.set()
        return acquire(self, *args, **options)

    monkeypatch.setattr(loop, "check_unused", checking)
    monkeypatch.setattr(folder.FileLock, "acquire", acquiring)
    monkeypatch.setattr(folder, "WAIT_S", 600.0)
    train(corpus, run, RECIPE, seed=11)
    other.join(60)
    assert len(refusals) == 1
    assert f"{run}: holds a run already" in refusals[0]
    assert_same_run(run, uninterrupted)


def test_a_kill_in_the_very_first_save_leaves_the_folder_usable(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "last" / "weights-0123.safetensors.part").write_bytes(b"half")
    train(corpus, tmp_path / "run", replace(RECIPE, steps=1))
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "run" / "last").iterdir())
    assert names == ["checkpoint.json", "training", "weights"]


# ---- a full disk ----


def test_a_failed_write_stops_the_run_in_one_line_and_loses_nothing(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, seed=11, report=stopping_at(8))
    with full_disk(50_000), one_line(run, "cannot be written"):
        train(corpus, run, RECIPE, resume=True)
    assert not list(run.rglob("*.part"))
    assert load_checkpoint(run / "last").run["step"] == 8
    train(corpus, run, RECIPE, resume=True)
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_disk_full_at_a_later_save_leaves_the_one_before(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    run, calls = tmp_path / "run", itertools.count()
    owner: Any = os if operation == "fsync" else Path
    real = getattr(owner, operation)

    def failing(*args: Any) -> Any:
        if next(calls) >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(owner, operation, failing)
    with one_line(run, "No space left"):
        train(corpus, run, replace(RECIPE, checkpoint_every_s=0))
    assert not list(run.rglob("*.part"))
    last = load_checkpoint(run / "last")
    assert last.run["step"] > 0
    last.tensors()
    last.tensors("training")
    assert len(list((run / "last").iterdir())) == 3


def test_a_disk_full_from_the_start_is_told_before_any_step(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(loop, "train_step", never)
    with full_disk(50_000), one_line(tmp_path / "run", "cannot be written"):
        train(corpus, tmp_path / "run", RECIPE)
    monkeypatch.undo()
    train(corpus, tmp_path / "run", replace(RECIPE, steps=1))
