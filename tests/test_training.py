"""Training: the gradient is that of a plain loop, what it learns and keeps, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import math
import signal
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from rich.console import Console
from short_runs import (
    RECIPE,
    assert_same_run,
    equal,
    losses,
    make_corpus,
    stopping_at,
    training_losses,
)
from tiny import SEGMENT_TOKENS, made_up_tokens, random_model, save_model, tiny_config, write_corpus
from torch import Tensor

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.evaluation import evaluate
from ritornello.feed import Augmentation, Lanes
from ritornello.files import with_checksum
from ritornello.models import build, from_checkpoint
from ritornello.models.config import ModelConfig
from ritornello.models.dsmr import DSMR, DSMRState
from ritornello.notes import Piece
from ritornello.training import fitting, loop
from ritornello.training.display import watch
from ritornello.training.fitting import faster_precision
from ritornello.training.loop import Report, train
from ritornello.training.optimisers import Optimisers, learning_rate_factor
from ritornello.training.readers import Reader, reader_of
from ritornello.training.recipes import Recipe, recipe_named


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("training") / "corpus")


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(corpus, run, RECIPE, seed=11)
    return run


# ---- what it reads ----


@pytest.mark.parametrize("balance_titles", [True, False])
def test_a_recipe_says_whether_titles_or_performances_are_read_as_often(corpus: Corpus, balance_titles: bool) -> None:
    """The first piece is the only one of its title: of six pieces every second, or one of the first five."""
    played = copy(corpus)
    played.records = [replace(record, title="first" if n == 0 else "rest") for n, record in enumerate(corpus.records)]
    recipe = replace(RECIPE, lanes=6, balance_titles=balance_titles)
    taken = next(reader_of(random_model(0), played, recipe, seed=3).feed).piece.tolist()
    assert taken.count(0) == 3 if balance_titles else taken[:5].count(0) == 1


@pytest.mark.parametrize("model", [recipe_named(name).model for name in ("tiny", "perceivers_tiny")])
def test_a_recipe_says_how_far_pieces_are_read(corpus: Corpus, model: ModelConfig) -> None:
    recipe = replace(RECIPE, model=model, horizon_warmup_share=0.0, interleave=1, balance_titles=False, piece_tokens=40)
    reader = reader_of(build(model), corpus, recipe, seed=3)
    batches = [next(reader.feed) for _ in range(8)]
    assert max((batch.targets != codec.PAD).sum(1).max() for batch in batches) == 40
    assert max(batch.position.max() for batch in batches) == 0


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
    states: dict[tuple[int, int], DSMRState] = {}
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
    ("legal", "clip_norm", "interleave"), [(True, 1e6, 1), (False, 1e6, 1), (True, 1.0, 1), (True, 1e6, 3)]
)
def test_the_gradient_is_that_of_a_plain_loop(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legal: bool, clip_norm: float, interleave: int
) -> None:
    model = random_model(4)
    init = save_model(model, tmp_path / "init")
    recipe = replace(STILL, legal=legal, clip_norm=clip_norm, interleave=interleave, steps=8 * interleave)
    found = gradients_of_training(corpus, tmp_path / "run", recipe, monkeypatch, init=init, seed=7)

    def plain(**options: Any) -> list[list[Tensor]]:
        sizes = {"lanes": 3, "interleave": interleave, "segment_tokens": SEGMENT_TOKENS}
        feed = Lanes(corpus, "train", **sizes, seed=7, augmentation=recipe.augmentation)
        return gradients_of_a_plain_loop(model, feed, recipe.steps, legal=legal, clip_norm=clip_norm, **options)

    assert furthest(found, plain()) < 1e-4
    assert furthest(found, plain(forgets=True)) > 0.05, "memory does not matter: the test proves less"


def test_the_gradient_is_no_longer_than_the_limit(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = save_model(random_model(4), tmp_path / "init")
    recipe = replace(STILL, clip_norm=0.01, steps=3)
    for step in gradients_of_training(corpus, tmp_path / "run", recipe, monkeypatch, init=init):
        length = math.sqrt(sum(float(g.double().square().sum()) for g in step))
        assert length == pytest.approx(0.01, rel=1e-3)


def test_a_lane_goes_on_with_its_own_memory(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = save_model(random_model(4), tmp_path / "init")
    recipe = replace(STILL, steps=10)
    train(corpus, tmp_path / "own", recipe, init=init)
    real = DSMR.restart

    def swapped(self: DSMR, state: DSMRState, lanes: Tensor) -> DSMRState:
        moved = [tuple(t.roll(1, 0) for t in tensors) for tensors in (state.keys, state.values)]
        return real(self, DSMRState(moved[0], moved[1], state.position), lanes)

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
    monkeypatch.setattr(Reader, "validate", lambda *_: next(figures))
    run, recipe = tmp_path / "run", replace(RECIPE, steps=6)
    steps = []
    train(corpus, run, recipe, report=lambda _: steps.append(load_checkpoint(run).run["step"]))
    assert steps == [1, 2, 2, 4, 4, 4]
    assert load_checkpoint(run).run["best"] == load_checkpoint(run / "last").run["best"] == 1.75
    assert train(corpus, run, recipe, resume=True) == 1.75


def test_the_best_checkpoint_can_be_read_again(corpus: Corpus, uninterrupted: Path) -> None:
    validations = {step: nats for step, kind, nats in losses(uninterrupted) if kind == "validation"}
    best = load_checkpoint(uninterrupted)
    assert best.folder == uninterrupted / "best"
    assert best.run["best"] == min(validations.values())
    assert best.run["step"] == min(validations, key=lambda step: validations[step])
    result = evaluate(from_checkpoint(best), corpus, "validation", legal=True)
    assert result.nats_per_token == pytest.approx(best.run["best"], abs=0.02)  # trained in half precision, perhaps
    shortest = min(record.seconds for record in corpus.pieces("train"))
    assert best.trained_on == {"name": "made up", "licence": "CC0", "shortest_s": shortest}


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


def test_without_a_warm_up_the_inverse_square_root_falls_from_the_first_step_on() -> None:
    recipe = replace(RECIPE, warmup_steps=0, decay="inverse_sqrt")
    factors = [learning_rate_factor(recipe, step=step, progress=0.99) for step in (0, 3, 99)]
    assert factors == [pytest.approx(1), pytest.approx(0.5), pytest.approx(0.1)]


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
    init = save_model(random_model(4), tmp_path / "init")
    recipe = replace(STILL, steps=1, other_lr=0.5, warmup_steps=5, decay_share=0.0)
    train(corpus, tmp_path / "run", recipe, init=init)
    before, after = random_model(4).state_dict(), load_checkpoint(tmp_path / "run" / "last").tensors()
    moved = (after["final_gain"] - before["final_gain"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-4)  # Adam's first step is its rate: 0.5 x 1/5
    assert torch.equal(after["blocks.0.qkv.weight"], before["blocks.0.qkv.weight"])  # Muon's, of rate 0


# ---- starting from a model ----


def test_fine_tuned_weights_carry_the_licence_of_those_they_began_from(corpus: Corpus, tmp_path: Path) -> None:
    init = save_model(random_model(4), tmp_path / "init")
    manifest = init / "checkpoint.json"
    said = json.loads(manifest.read_text())
    asap = {"name": "ASAP", "licence": "CC BY-NC-SA 4.0", "shortest_s": 0.5}
    manifest.write_text(json.dumps(with_checksum({**said, "data": asap})))
    train(corpus, tmp_path / "run", replace(STILL, steps=4), init=init, report=stopping_at(2))
    train(corpus, tmp_path / "run", replace(STILL, steps=4), resume=True)
    for name in ("last", "best"):
        data = load_checkpoint(tmp_path / "run" / name).trained_on
        assert data == {"name": "ASAP; made up", "licence": "CC BY-NC-SA 4.0; CC0", "shortest_s": 0.5}
    train(corpus, tmp_path / "again", replace(STILL, steps=1), init=tmp_path / "run" / "best")
    assert load_checkpoint(tmp_path / "again" / "best").trained_on == data


def test_init_adds_the_recipe_s_motif_memory_and_changes_nothing_by_that(corpus: Corpus, tmp_path: Path) -> None:
    """Before the first step it reads as the model that it began from; then it learns what hints mean."""
    model = random_model(8)
    init = save_model(model, tmp_path / "init")
    recipe = replace(STILL, steps=3, model=replace(STILL.model, motif_notes=32))
    train(corpus, tmp_path / "still", recipe, init=init)
    still = from_checkpoint(load_checkpoint(tmp_path / "still" / "last"))
    assert still.config == replace(model.config, motif_notes=32)
    read, before = (evaluate(m, corpus, "validation", legal=True).nats_per_token for m in (still, model))
    assert read == pytest.approx(before, abs=1e-6)
    train(corpus, tmp_path / "run", replace(RECIPE, model=recipe.model), init=init)
    moved = load_checkpoint(tmp_path / "run" / "last").tensors()["hint_embedding.weight"]
    assert moved.abs().max() > 0


def test_init_starts_from_the_given_weights_and_sizes(corpus: Corpus, tmp_path: Path) -> None:
    model = random_model(8, width=48, heads=3, schedule=tiny_config().schedule)
    init = save_model(model, tmp_path / "init")
    recipe = replace(STILL, steps=4, validate_every_steps=1)
    train(corpus, tmp_path / "run", recipe, init=init, report=stopping_at(2))
    for _ in range(2):
        last = load_checkpoint(tmp_path / "run" / "last")
        assert equal(last.tensors(), model.state_dict())
        assert last.config == model.config.to_json()
        train(corpus, tmp_path / "run", recipe, resume=True)
    assert load_checkpoint(tmp_path / "run" / "last").run["step"] == 4


def test_a_fine_tuned_run_goes_on_to_the_bit(corpus: Corpus, tmp_path: Path) -> None:
    init = save_model(random_model(8, width=48, heads=3, dropout=0.2), tmp_path / "init")
    recipe = replace(RECIPE, steps=8)
    train(corpus, tmp_path / "whole", recipe, init=init, seed=1)
    train(corpus, tmp_path / "run", recipe, init=init, seed=1, report=stopping_at(3))
    train(corpus, tmp_path / "run", recipe, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---- a budget of hours ----


class Clock:
    """Time as the test says: nothing takes any but steps, validations and saves. It remembers what was done."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, step_s: float = 5.0, validation_s: float = 30.0, save_s: float = 5.0
    ) -> None:
        self.now_s = 1000.0
        self.done: list[str] = []
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        for name, seconds in (("train_step", step_s), ("save_checkpoint", save_s)):
            monkeypatch.setattr(loop, name, self._taking(name, seconds, getattr(loop, name)))
        monkeypatch.setattr(Reader, "validate", self._taking("validate", validation_s, lambda *_: 1.0))

    def _taking(self, name: str, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.now_s += seconds
            self.done.append(name)
            return function(*args, **options)

        return call


HOURLY = replace(RECIPE, validate_every_steps=20)
COSTS = list(itertools.product((1.0, 5.0, 13.0), (0.5, 30.0), (0.5, 11.0), (7, 1000)))


@pytest.mark.parametrize(("step_s", "validation_s", "save_s", "every"), COSTS)
def test_a_run_of_hours_ends_in_time_with_its_last_weights_validated(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step_s: float,
    validation_s: float,
    save_s: float,
    every: int,
) -> None:
    """Whatever steps, validations and saves cost; they are none here but for their time."""

    def step(run: Any, state: loop.RunState, batch: Any) -> None:
        state.step, state.losses = state.step + 1, [torch.ones(())]

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "save_checkpoint", lambda *_, **__: None)
    clock = Clock(monkeypatch, step_s=step_s, validation_s=validation_s, save_s=save_s)
    recipe = replace(HOURLY, validate_every_steps=every, checkpoint_every_s=60, augmentation=Augmentation())
    train(corpus, tmp_path / "run", recipe, hours=0.1)
    last_steps = clock.done[-clock.done[::-1].index("train_step") - 1 :]
    assert last_steps.count("validate") == 1
    spare_s = 360 - (clock.now_s - 1000)
    assert 0 <= spare_s <= 20 + step_s + 3 * save_s + validation_s * (every == 7)


def test_in_a_run_of_hours_learning_rates_follow_the_clock(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch, step_s=15.0)
    factors: list[float] = []
    real = Optimisers.step
    monkeypatch.setattr(Optimisers, "step", lambda self, factor: (factors.append(factor), real(self, factor))[1])
    train(corpus, tmp_path / "run", replace(HOURLY, decay_share=0.5), hours=0.1)
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    # 60 of 360 seconds are kept for the end. The first save took 5, the first validation with its save 35, a step 15.
    assert factors[8:] == pytest.approx([(300 - 160 - 15 * n) / 150 for n in range(len(factors) - 8)])
    assert factors[-1] < 0.1
    assert losses(tmp_path / "run")[-1][:2] == (len(factors), "validation")


def test_a_stopped_run_of_hours_goes_on_with_what_is_left(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    train(corpus, tmp_path / "run", HOURLY, hours=0.1, report=stopping_at(1))
    assert load_checkpoint(tmp_path / "run" / "last").run["step"] == 1
    clock.now_s += 1e6
    train(corpus, tmp_path / "run", HOURLY, resume=True)
    assert 320 < clock.now_s - 1000 - 1e6 <= 360


def test_a_run_resumed_after_its_time_validates_its_last_weights(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    real = loop.train_step

    def stopped(run: Any, state: loop.RunState, batch: Any) -> None:
        real(run, state, batch)
        if state.step == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", stopped)
    train(corpus, tmp_path / "run", HOURLY, hours=0.1)
    assert [step for step, kind, _ in losses(tmp_path / "run") if kind == "validation"] == [1]
    clock.done.clear()
    train(corpus, tmp_path / "run", HOURLY, hours=0.02, resume=True)
    assert clock.done == ["validate", "save_checkpoint"]
    assert losses(tmp_path / "run")[-1][:2] == (7, "validation")


def test_hours_and_steps_together_end_with_what_comes_first(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    train(corpus, tmp_path / "few", HOURLY, hours=1.0, steps=5)
    assert load_checkpoint(tmp_path / "few" / "last").run["step"] == 5
    train(corpus, tmp_path / "many", HOURLY, hours=150 / 3600, steps=10_000)
    assert 5 < load_checkpoint(tmp_path / "many" / "last").run["step"] < 15


# ---- refusals ----


def test_progress_shows_no_loss_where_no_step_was_made_since_it_was_shown_last() -> None:
    console = Console(file=io.StringIO(), width=200)
    after_steps = Report(4, 0.5, 400, 3.25, 100.0, 2**20, 60.0, None, None)
    with watch(console) as show:
        show(after_steps)
        show(replace(after_steps, nats_per_token=math.nan, tokens_per_s=0.0, validation=3.5, best=3.5))
    first, second = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "3.250 nats/token  100 tokens/s" in first
    assert "nats/token" not in second
    assert "validation 3.5000" in second


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
    init = save_model(model, tmp_path / "init")
    with one_line(tmp_path / "run", "nan", "step 10"):
        train(corpus, tmp_path / "run", replace(RECIPE, validate_every_steps=1000), init=init)


# ---- precision ----


@pytest.mark.parametrize(("times_s", "chosen"), [((3.0, 1.0), "bf16"), ((1.4, 1.0), "fp32"), ((1.0, 2.0), "fp32")])
def test_the_precision_is_the_clearly_faster_one(
    monkeypatch: pytest.MonkeyPatch, times_s: tuple[float, float], chosen: str
) -> None:
    measured = {torch.float32: times_s[0], torch.bfloat16: times_s[1]}
    monkeypatch.setattr(fitting, "_seconds", lambda _, dtype: measured[dtype])
    assert faster_precision.__wrapped__(torch.device("cpu"), width=256) == chosen
    assert faster_precision.__wrapped__(torch.device("cpu"), width=96) == "fp32"


def test_a_machine_is_measured_in_both_precisions() -> None:
    assert faster_precision(torch.device("cpu"), width=128) in ("fp32", "bf16")


@pytest.mark.parametrize("native", [True, False])
def test_emulated_half_precision_does_not_count(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert faster_precision.__wrapped__(torch.device("cuda"), width=64) == ("bf16" if native else "fp32")


def test_a_resumed_run_keeps_its_precision(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of matrix products and of memories, those of groups that have not had their turn included."""
    recipe = replace(recipe_named("tiny"), interleave=4)
    train(corpus, tmp_path, recipe, steps=2, precision="bf16")
    monkeypatch.setattr(loop, "faster_precision", lambda *_, **__: "fp32")
    for steps in (3, 6):
        train(corpus, tmp_path, recipe, steps=steps, resume=True)
        last = load_checkpoint(tmp_path / "last")
        assert last.run["precision"] == "bf16"
        tensors = last.tensors("training")
        memories = [tensor for name, tensor in tensors.items() if name.startswith(("state/keys", "state/values"))]
        assert len(memories) == 4 * 2 * 3
        assert {tensor.dtype for tensor in memories} == {torch.bfloat16}


def test_a_model_of_another_family_is_no_start(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path / "dsmr", RECIPE, steps=1)
    with one_line(tmp_path / "dsmr", "family dsmr"):
        train(corpus, tmp_path / "other", recipe_named("perceivers_tiny"), steps=1, init=tmp_path / "dsmr" / "best")
