"""Training: a stopped run goes on to the bit, the gradient is that of a plain loop, no stop loses what was learnt."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SEGMENT_TOKENS, made_up_tokens, random_model, tiny_config, write_corpus
from torch import Tensor

from ritornello import codec
from ritornello.checkpoint import MANIFEST, load_checkpoint, save_checkpoint
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.evaluation import evaluate
from ritornello.feed import Augmentation, Lanes
from ritornello.horizons import HorizonSchedule
from ritornello.models import describe_model, from_checkpoint
from ritornello.models.dsmr import DSMR, State
from ritornello.notes import Piece
from ritornello.training import loop, precision
from ritornello.training.journal import Journal, read_journal
from ritornello.training.loop import Report, train
from ritornello.training.optimisers import Optimisers, learning_rate_factor
from ritornello.training.precision import faster_precision
from ritornello.training.recipes import RECIPES, Recipe, recipe_named

NEVER_S = 1e9

RECIPE = Recipe(
    name="of the tests",
    model=tiny_config(dropout=0.1),
    lanes=3,
    steps=23,
    augmentation=Augmentation(semitones=3, stretch=0.1),
    warmup_steps=5,
    validate_every_steps=1,
    checkpoint_every_s=NEVER_S,
)


def make_corpus(folder: Path) -> Corpus:
    return write_corpus(folder, {"train": made_up_tokens(1, 20, 9, 30, 14, 25), "validation": made_up_tokens(2, 6)})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("training") / "corpus")


def losses(run: Path) -> list[tuple[int, str, float]]:
    """What the log says was lost, in order: step, training or validation, nats/token."""
    return [
        (line["step"], kind, line[kind])
        for line in read_journal(run)
        for kind in ("nats", "validation")
        if kind in line
    ]


def training_losses(run: Path) -> list[float]:
    return [nats for _, kind, nats in losses(run) if kind == "nats"]


def stopping_at(*steps: int) -> Callable[[Report], None]:
    def report(report: Report) -> None:
        if report.step in steps:
            signal.raise_signal(signal.SIGINT)

    return report


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    for name in ("last", "best"):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        timeless = [{k: v for k, v in c.progress.items() if not k.endswith("seconds")} for c in (a, b)]
        assert timeless[0] == timeless[1]
        assert equal(a.tensors(), b.tensors())
    assert equal(load_checkpoint(one / "last").tensors("training"), load_checkpoint(other / "last").tensors("training"))


@contextmanager
def one_line(*naming: object) -> Iterator[None]:
    """A `RitornelloError` of one line that names each of ``naming``."""
    with pytest.raises(RitornelloError) as refusal:
        yield
    message = str(refusal.value)
    assert "\n" not in message
    for name in naming:
        assert str(name) in message


def save_model(folder: Path, model: DSMR) -> Path:
    family, config = describe_model(model)
    save_checkpoint(folder, family=family, config=config, data={}, progress={}, tensors={"weights": model.state_dict()})
    return folder


# ---- going on ----


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(corpus, run, RECIPE, seed=11)
    return run


@pytest.mark.parametrize("stops", [(1,), (10,), (13,), (22,), (4, 5, 17), tuple(range(1, 23))], ids=str)
def test_a_run_stopped_anywhere_goes_on_to_the_bit(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, seed=11, report=stopping_at(*stops))
    for stop in stops:
        assert load_checkpoint(run / "last").progress["step"] == stop
        train(corpus, run, RECIPE, resume=True, report=stopping_at(*stops))
    assert_same_run(run, uninterrupted)


def test_groups_of_lanes_go_on_to_the_bit(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(RECIPE, groups=3, growing=0.7)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(corpus, whole, recipe, seed=11)
    train(corpus, stopped, recipe, seed=11, report=stopping_at(8, 13))
    for _ in range(2):
        train(corpus, stopped, recipe, resume=True, report=stopping_at(13))
    assert_same_run(whole, stopped)
    with one_line(whole, "groups = 3, not 1"):
        train(corpus, whole, RECIPE, resume=True)


def test_a_setting_that_is_newer_than_a_run_was_as_its_default(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, steps=1)
    manifest = run / "last" / MANIFEST
    written = json.loads(manifest.read_text())
    del written["progress"]["recipe"]["groups"]
    manifest.write_text(json.dumps(written))
    with one_line(run, "groups = 1, not 2"):
        train(corpus, run, replace(RECIPE, groups=2), resume=True)
    train(corpus, run, RECIPE, steps=2, resume=True)
    assert load_checkpoint(run / "last").progress["step"] == 2


def sights_of_training(corpus: Corpus, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How much of its memory the model saw, step by step."""
    seen: list[int | None] = []
    real = DSMR.forward

    def forward(self: DSMR, *arguments: Any) -> Any:
        if self.training:
            seen.append(self.sight_tokens)
        return real(self, *arguments)

    monkeypatch.setattr(DSMR, "forward", forward)
    train(corpus, run, recipe)
    return seen


def test_what_layers_see_doubles_until_it_is_all(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Horizons of 64 and 16, segments of 16: one segment, two, and all, in as many steps of the first half."""
    recipe = replace(RECIPE, steps=20, growing=0.5, validate_every_steps=7)
    found = sights_of_training(corpus, tmp_path / "run", recipe, monkeypatch)
    assert found == [16] * 5 + [32] * 5 + [None] * 10
    short = replace(recipe, model=tiny_config(schedule=HorizonSchedule((16, 0))))
    assert set(sights_of_training(corpus, tmp_path / "short", short, monkeypatch)) == {None}


def test_without_a_limit_what_layers_see_grows_to_the_longest_piece(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, model=tiny_config(schedule=HorizonSchedule((None, 16))), steps=20, growing=1.0)
    longest = max(record.tokens for record in corpus.pieces("train"))
    found = sights_of_training(corpus, tmp_path / "run", recipe, monkeypatch)
    assert found == sorted(found, key=lambda seen: seen or 10**9)
    assert found[0] == 16
    assert found[-1] is not None
    assert found[-1] < longest <= 2 * found[-1]


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
    real = loop.token_nats

    def interrupted(*args: Any) -> Tensor:
        if next(calls) == 7:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(loop, "token_nats", interrupted)
    train(corpus, run, RECIPE, seed=11)
    assert load_checkpoint(run / "last").progress["step"] == 7
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
    assert load_checkpoint(tmp_path / "run" / "last").progress["step"] == 0


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
    assert load_checkpoint(run / "last").progress["step"] == 5


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
    real = Path.write_text

    def cut_short(path: Path, text: str, **options: Any) -> None:
        real(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut_short)
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
    code = "import sys, test_training; test_training.train_until_killed(*sys.argv[1:])"
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
        reached.append(last.progress["step"])
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
    corpus: Corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def meanwhile(report: Report) -> None:
        if report.step == 5:
            with one_line(run, "another process"), torch.random.fork_rng():  # as if it were another's
                train(corpus, run, RECIPE, seed=11, resume=True)

    train(corpus, run, RECIPE, seed=11, report=meanwhile)
    assert_same_run(run, uninterrupted)
    train(corpus, run, RECIPE, seed=11, resume=True)


def test_a_kill_in_the_very_first_save_leaves_the_folder_usable(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "last" / "weights-0123.safetensors.part").write_bytes(b"half")
    train(corpus, tmp_path / "run", replace(RECIPE, steps=1))
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "run" / "last").iterdir())
    assert names == ["checkpoint.json", "training", "weights"]


# ---- a full disk ----


@contextmanager
def files_no_longer_than(limit_bytes: int) -> Iterator[None]:
    """The system itself fails the write that would go beyond."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_stops_the_run_in_one_line_and_loses_nothing(
    corpus: Corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(corpus, run, RECIPE, seed=11, report=stopping_at(8))
    with files_no_longer_than(50_000), one_line(run, "could not be written"):
        train(corpus, run, RECIPE, resume=True)
    assert not list(run.rglob("*.part"))
    assert load_checkpoint(run / "last").progress["step"] == 8
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
    assert last.progress["step"] > 0
    last.tensors()
    last.tensors("training")
    assert len(list((run / "last").iterdir())) == 3


def test_a_disk_full_from_the_start_is_told_before_any_step(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(loop, "token_nats", never)
    with files_no_longer_than(50_000), one_line(tmp_path / "run", "could not be written"):
        train(corpus, tmp_path / "run", RECIPE)
    monkeypatch.undo()
    train(corpus, tmp_path / "run", replace(RECIPE, steps=1))


# ---- the gradient ----


def gradients_of_training(
    corpus: Corpus, run: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> list[list[Tensor]]:
    """Per step and parameter, what the optimisers were given, in single precision."""
    found: list[list[Tensor]] = []
    real = torch.nn.utils.clip_grad_norm_

    def clip(parameters: Any, most: float) -> Tensor:
        parameters = list(parameters)
        length = real(parameters, most)
        found.append([parameter.grad.clone() for parameter in parameters])
        return length

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    train(corpus, run, recipe, precision="fp32", **options)
    return found


def gradients_of_a_plain_loop(
    model: DSMR, feed: Lanes, steps: int, *, legal: bool, clip_norm: float, forgets: bool = False
) -> list[list[Tensor]]:
    """The same by hand: every lane alone, its own state, its own grammar, padding never read."""
    states: dict[tuple[int, int], State] = {}
    grammars: dict[tuple[int, int], codec.Grammar] = {}
    found = []
    for batch in itertools.islice(feed, steps):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for lane in range(len(batch.piece)):
            own = (batch.group, lane)
            length = int((batch.targets[lane] != codec.PAD).sum())
            if batch.position[lane] == 0 or forgets:
                states[own] = model.initial_state(1)
            if batch.position[lane] == 0:
                grammars[own] = codec.Grammar()
            inputs = torch.from_numpy(batch.inputs[lane : lane + 1, :length])
            logits, states[own] = model(inputs, states[own])
            for row, token in zip(logits[0].double(), batch.targets[lane, :length].tolist()):
                if legal:
                    row = torch.where(torch.from_numpy(grammars[own].legal()), row, -torch.inf)
                    grammars[own].advance(token)
                total = total + row.logsumexp(0) - row[token]
            count += length
        gradients = torch.autograd.grad(total / count, list(model.parameters()))
        length_of_all = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        found.append([g * min(1.0, clip_norm / length_of_all) for g in gradients])
    return found


def furthest(found: list[list[Tensor]], expected: list[list[Tensor]]) -> float:
    """The greatest distance of two gradients, as a share of the gradient's own length."""
    assert len(found) == len(expected)
    worst = 0.0
    for step, other in zip(found, expected):
        distance = sum(float((a - b).square().sum()) for a, b in zip(step, other, strict=True))
        worst = max(worst, math.sqrt(distance / sum(float(b.square().sum()) for b in other)))
    return worst


STILL = replace(
    RECIPE, model=tiny_config(), steps=8, matrix_lr=0, other_lr=0, warmup_steps=0, validate_every_steps=1000
)


@pytest.mark.parametrize(
    ("legal", "clip_norm", "groups"), [(True, 1e6, 1), (False, 1e6, 1), (True, 1.0, 1), (True, 1e6, 3)]
)
def test_the_gradient_is_that_of_a_plain_loop(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legal: bool, clip_norm: float, groups: int
) -> None:
    model = random_model(4)
    init = save_model(tmp_path / "init", model)
    recipe = replace(STILL, legal=legal, clip_norm=clip_norm, groups=groups, steps=8 * groups)
    found = gradients_of_training(corpus, tmp_path / "run", recipe, monkeypatch, init=init, seed=7)

    def plain(**options: Any) -> list[list[Tensor]]:
        sizes = {"lanes": 3, "groups": groups, "segment_tokens": SEGMENT_TOKENS}
        feed = Lanes(corpus, "train", **sizes, seed=7, augmentation=recipe.augmentation)
        return gradients_of_a_plain_loop(model, feed, recipe.steps, legal=legal, clip_norm=clip_norm, **options)

    assert furthest(found, plain()) < 1e-4
    assert furthest(found, plain(forgets=True)) > 0.05, "memory does not matter: the test proves less"


def test_the_gradient_is_no_longer_than_the_limit(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = save_model(tmp_path / "init", random_model(4))
    recipe = replace(STILL, clip_norm=0.01, steps=3)
    for step in gradients_of_training(corpus, tmp_path / "run", recipe, monkeypatch, init=init):
        length = math.sqrt(sum(float(g.double().square().sum()) for g in step))
        assert length == pytest.approx(0.01, rel=1e-3)


def test_a_lane_goes_on_with_its_own_memory(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = save_model(tmp_path / "init", random_model(4))
    recipe = replace(STILL, steps=10)
    train(corpus, tmp_path / "own", recipe, init=init)
    real = DSMR.restart

    def swapped(self: DSMR, state: State, lanes: Tensor) -> State:
        moved = [tuple(t.roll(1, 0) for t in tensors) for tensors in (state.keys, state.values)]
        return real(self, State(moved[0], moved[1], state.position), lanes)

    monkeypatch.setattr(DSMR, "restart", swapped)
    train(corpus, tmp_path / "swapped", recipe, init=init)
    (own,), (other,) = training_losses(tmp_path / "own"), training_losses(tmp_path / "swapped")
    assert abs(own - other) > 1e-3


def test_tokens_are_counted_without_padding(corpus: Corpus, tmp_path: Path) -> None:
    told: list[Report] = []
    train(corpus, tmp_path / "run", replace(RECIPE, steps=12), seed=2, report=told.append)
    feed = Lanes(corpus, "train", lanes=3, segment_tokens=SEGMENT_TOKENS, seed=2, augmentation=RECIPE.augmentation)
    counts = [int(np.count_nonzero(batch.targets != codec.PAD)) for batch in itertools.islice(feed, 12)]
    assert [report.tokens for report in told] == list(itertools.accumulate(counts))
    assert [report.step for report in told] == list(range(1, 13))
    assert told[-1].share == 1.0
    assert told[-1].best == min(report.validation or math.inf for report in told)


# ---- learning ----


def scales() -> list[np.ndarray]:
    """Two short tunes, each repeated."""
    tunes = ([60, 62, 64, 65], [67, 65, 64, 62])
    pieces = []
    for tune in tunes:
        pitch = np.array(tune * 10)
        onset = np.arange(len(pitch)) * 0.25
        pieces.append(codec.encode(Piece(onset, onset + 0.2, pitch, np.full(len(pitch), 80))))
    return pieces


def test_a_repeated_tune_is_learnt_by_heart(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": scales(), "validation": scales()})
    recipe = replace(
        RECIPE, model=tiny_config(), augmentation=Augmentation(), lanes=4, steps=80, validate_every_steps=80
    )
    best = train(corpus, tmp_path / "run", recipe)
    means = training_losses(tmp_path / "run")
    assert means[0] > 3
    assert means[-1] < 1  # of ten batches that may hold the beginnings, where nobody knows which tune comes
    assert best < 0.15
    model = from_checkpoint(load_checkpoint(tmp_path / "run"))
    assert evaluate(model, corpus, "validation", legal=True).nats_per_token == pytest.approx(best, abs=0.01)


def test_best_stays_where_validation_was_lowest(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([3.0, 2.0, 2.5, 1.75, 2.25, 1.75])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: SimpleNamespace(nats_per_token=next(figures)))
    run, recipe = tmp_path / "run", replace(RECIPE, steps=6)
    steps = []
    train(corpus, run, recipe, report=lambda _: steps.append(load_checkpoint(run).progress["step"]))
    assert steps == [1, 2, 2, 4, 4, 4]
    assert load_checkpoint(run).progress["best"] == load_checkpoint(run / "last").progress["best"] == 1.75
    assert train(corpus, run, recipe, resume=True) == 1.75


def test_the_best_checkpoint_can_be_read_again(corpus: Corpus, uninterrupted: Path) -> None:
    validations = {step: nats for step, kind, nats in losses(uninterrupted) if kind == "validation"}
    best = load_checkpoint(uninterrupted)
    assert best.folder == uninterrupted / "best"
    assert best.progress["best"] == min(validations.values())
    assert best.progress["step"] == min(validations, key=lambda step: validations[step])
    result = evaluate(from_checkpoint(best), corpus, "validation", legal=True)
    assert result.nats_per_token == pytest.approx(best.progress["best"], abs=0.02)  # trained in half precision, perhaps
    assert best.data == {"name": "made up", "licence": "CC0"}


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [
        (0, 0.0, 0.25),
        (1, 0.1, 0.5),
        (3, 0.2, 1.0),
        (7, 0.6, 1.0),
        (8, 0.7, 0.75),
        (8, 0.8, 0.5),
        (9, 0.9, 0.25),
        (9, 1.0, 0.0),
        (0, 0.9, 0.0625),
    ],
)
def test_the_learning_rate_rises_stays_and_falls_by_hand(step: int, progress: float, expected: float) -> None:
    recipe = replace(RECIPE, warmup_steps=4, decay_share=0.4)
    assert learning_rate_factor(recipe, step=step, progress=progress) == pytest.approx(expected)


def test_without_warm_up_and_decay_the_learning_rate_stays_at_its_peak() -> None:
    recipe = replace(RECIPE, warmup_steps=0, decay_share=0.0)
    assert {learning_rate_factor(recipe, step=s, progress=s / 10) for s in range(11)} == {1.0}


def test_a_run_of_ten_steps_has_these_learning_rates(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors: list[float] = []
    real = Optimisers.step
    monkeypatch.setattr(Optimisers, "step", lambda self, factor: (factors.append(factor), real(self, factor))[1])
    recipe = replace(RECIPE, steps=10, warmup_steps=2, decay_share=0.5)
    train(corpus, tmp_path / "run", recipe, report=stopping_at(4))
    train(corpus, tmp_path / "run", recipe, resume=True)
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_the_first_step_is_as_long_as_its_learning_rate_says(corpus: Corpus, tmp_path: Path) -> None:
    init = save_model(tmp_path / "init", random_model(4))
    recipe = replace(STILL, steps=1, other_lr=0.5, warmup_steps=5, decay_share=0.0)
    train(corpus, tmp_path / "run", recipe, init=init)
    before, after = random_model(4).state_dict(), load_checkpoint(tmp_path / "run" / "last").tensors()
    moved = (after["final_gain"] - before["final_gain"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-4)  # Adam's first step is its rate: 0.5 x 1/5
    assert torch.equal(after["blocks.0.qkv.weight"], before["blocks.0.qkv.weight"])  # Muon's, of rate 0


# ---- starting from a model ----


def test_fine_tuned_weights_carry_the_licence_of_those_they_began_from(corpus: Corpus, tmp_path: Path) -> None:
    init = save_model(tmp_path / "init", random_model(4))
    manifest = init / "checkpoint.json"
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**said, "data": {"name": "ASAP", "licence": "CC BY-NC-SA 4.0"}}))
    train(corpus, tmp_path / "run", replace(STILL, steps=4), init=init, report=stopping_at(2))
    train(corpus, tmp_path / "run", replace(STILL, steps=4), resume=True)
    for name in ("last", "best"):
        data = load_checkpoint(tmp_path / "run" / name).data
        assert data == {"name": "ASAP; made up", "licence": "CC BY-NC-SA 4.0; CC0"}


def test_init_starts_from_the_given_weights_and_sizes(corpus: Corpus, tmp_path: Path) -> None:
    model = random_model(8, width=48, heads=3, schedule=tiny_config().schedule)
    init = save_model(tmp_path / "init", model)
    recipe = replace(STILL, steps=4, validate_every_steps=1)
    train(corpus, tmp_path / "run", recipe, init=init, report=stopping_at(2))
    for _ in range(2):
        last = load_checkpoint(tmp_path / "run" / "last")
        assert equal(last.tensors(), model.state_dict())
        assert last.config == describe_model(model)[1]
        train(corpus, tmp_path / "run", recipe, resume=True)
    assert load_checkpoint(tmp_path / "run" / "last").progress["step"] == 4


def test_a_fine_tuned_run_goes_on_to_the_bit(corpus: Corpus, tmp_path: Path) -> None:
    init = save_model(tmp_path / "init", random_model(8, width=48, heads=3, dropout=0.2))
    recipe = replace(RECIPE, steps=8)
    train(corpus, tmp_path / "whole", recipe, init=init, seed=1)
    train(corpus, tmp_path / "run", recipe, init=init, seed=1, report=stopping_at(3))
    train(corpus, tmp_path / "run", recipe, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---- a budget of hours ----


class Clock:
    """Time as the test says: a step takes 5 seconds, a validation 30, a save 5."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        for name, seconds in (("token_nats", 5.0), ("evaluate", 30.0), ("save_checkpoint", 5.0)):
            monkeypatch.setattr(loop, name, self._taking(seconds, getattr(loop, name)))

    def _taking(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.now_s += seconds
            return function(*args, **options)

        return call


HOURLY = replace(RECIPE, validate_every_steps=20)


def test_a_budget_of_hours_is_kept_with_validation_and_saves(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, factors = Clock(monkeypatch), []
    real = Optimisers.step
    monkeypatch.setattr(Optimisers, "step", lambda self, factor: (factors.append(factor), real(self, factor))[1])
    train(corpus, tmp_path / "run", HOURLY, hours=0.1)
    assert 335 < clock.now_s - 1000 <= 360
    assert max(factors) == 1.0
    assert factors[-1] < 0.02
    assert losses(tmp_path / "run")[-1][0] == load_checkpoint(tmp_path / "run" / "last").progress["step"]
    assert losses(tmp_path / "run")[-1][1] == "validation"


def test_a_stopped_run_of_hours_goes_on_with_what_is_left(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    train(corpus, tmp_path / "run", HOURLY, hours=0.1, report=stopping_at(10))
    clock.now_s += 1e6
    train(corpus, tmp_path / "run", HOURLY, resume=True)
    assert 320 < clock.now_s - 1000 - 1e6 <= 360


def test_hours_and_steps_together_end_with_what_comes_first(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    train(corpus, tmp_path / "few", HOURLY, hours=1.0, steps=5)
    assert load_checkpoint(tmp_path / "few" / "last").progress["step"] == 5
    train(corpus, tmp_path / "many", HOURLY, hours=60 / 3600, steps=10_000)
    assert 5 < load_checkpoint(tmp_path / "many" / "last").progress["step"] < 12


# ---- refusals ----


def test_a_folder_in_use_is_refused_unless_resumed(corpus: Corpus, uninterrupted: Path) -> None:
    before = losses(uninterrupted)
    with one_line(uninterrupted, "--resume"):
        train(corpus, uninterrupted, RECIPE)
    assert losses(uninterrupted) == before


def test_nothing_to_resume_is_told(corpus: Corpus, tmp_path: Path) -> None:
    with one_line(tmp_path / "run"):
        train(corpus, tmp_path / "run", RECIPE, resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("matrix_lr", 0.01),
        ("legal", False),
        ("lanes", 4),
        ("augmentation", Augmentation(semitones=2)),
        ("model", tiny_config(width=64)),
        ("model", replace(RECIPE.model, schedule=tiny_config().schedule.uniform(layers=2, horizon=4))),
    ],
    ids=str,
)
def test_a_changed_recipe_is_refused(corpus: Corpus, uninterrupted: Path, name: str, value: Any) -> None:
    with one_line(uninterrupted, name):
        train(corpus, uninterrupted, replace(RECIPE, **{name: value}), resume=True)


def test_another_corpus_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", {"train": made_up_tokens(5, 10), "validation": made_up_tokens(6, 10)})
    with one_line(other.path, "same corpus"):
        train(other, uninterrupted, RECIPE, resume=True)


@pytest.mark.parametrize(
    "length",
    [
        {"steps": 0},
        {"steps": -1},
        {"steps": 10**10},
        {"hours": 0.0},
        {"hours": -1.0},
        {"hours": 0.001},
        {"hours": 20_000.0},
        {"hours": math.nan},
        {"hours": math.inf},
    ],
    ids=str,
)
def test_an_absurd_length_is_refused_before_anything_is_written(
    corpus: Corpus, tmp_path: Path, length: dict[str, Any]
) -> None:
    ((name, value),) = length.items()
    with one_line(f"{name} is {value}"):
        train(corpus, tmp_path / "run", RECIPE, **length)
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_validation_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": made_up_tokens(5, 10)})
    with one_line("validation"):
        train(corpus, tmp_path / "run", RECIPE)
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_should_be_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with one_line(tmp_path / "run"):
        train(corpus, tmp_path / "run", RECIPE)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_loss_that_is_no_number_stops_the_run(corpus: Corpus, tmp_path: Path) -> None:
    model = random_model(1)
    with torch.no_grad():
        model.final_gain[3] = math.nan
    init = save_model(tmp_path / "init", model)
    with one_line(tmp_path / "run", "nan", "step 10"):
        train(corpus, tmp_path / "run", replace(RECIPE, validate_every_steps=1000), init=init)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lanes", 0),
        ("steps", 0),
        ("matrix_lr", -1.0),
        ("other_lr", math.nan),
        ("decay_share", 1.5),
        ("clip_norm", 0.0),
        ("validate_every_steps", 0),
        ("validation_pieces", 0),
    ],
)
def test_a_recipe_outside_its_limits_is_refused(name: str, value: float) -> None:
    with one_line(f"{name} is {value}"):
        replace(RECIPE, **{name: value})


def test_an_unknown_recipe_names_those_there_are() -> None:
    with one_line("gigantic", *RECIPES):
        recipe_named("gigantic")


# ---- precision ----


@pytest.mark.parametrize(("times_s", "chosen"), [((3.0, 1.0), "bf16"), ((1.4, 1.0), "fp32"), ((1.0, 2.0), "fp32")])
def test_the_precision_is_the_clearly_faster_one(
    monkeypatch: pytest.MonkeyPatch, times_s: tuple[float, float], chosen: str
) -> None:
    measured = {torch.float32: times_s[0], torch.bfloat16: times_s[1]}
    monkeypatch.setattr(precision, "_seconds", lambda _, dtype: measured[dtype])
    assert faster_precision.__wrapped__(torch.device("cpu"), width=256) == chosen
    assert faster_precision.__wrapped__(torch.device("cpu"), width=96) == "fp32"


def test_a_machine_is_measured_in_both_precisions() -> None:
    assert faster_precision(torch.device("cpu"), width=128) in ("fp32", "bf16")


@pytest.mark.parametrize("native", [True, False])
def test_emulated_half_precision_does_not_count(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert faster_precision.__wrapped__(torch.device("cuda"), width=64) == ("bf16" if native else "fp32")


def test_a_resumed_run_keeps_its_precision(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(corpus, tmp_path, recipe_named("tiny"), steps=2, precision="bf16")
    monkeypatch.setattr(loop, "faster_precision", lambda *_, **__: "fp32")
    train(corpus, tmp_path, recipe_named("tiny"), steps=4, resume=True)
    assert load_checkpoint(tmp_path / "last").progress["precision"] == "bf16"


def test_a_model_of_another_family_is_no_start(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path / "dsmr", RECIPE, steps=1)
    with one_line(tmp_path / "dsmr", "family dsmr"):
        train(corpus, tmp_path / "other", recipe_named("perceivers_tiny"), steps=1, init=tmp_path / "dsmr" / "best")
