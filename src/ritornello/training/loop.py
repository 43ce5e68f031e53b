"""The training loop: a step, now and then a validation, a line in the log, a save, until the run has its length.

``train`` is read from top to bottom. What a step's loss is and what is carried from one to the next is the reader's
(``readers``); where the run stands is a `RunState`, and everything else about it is settled in a `Run`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ritornello.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ritornello.codec import steering
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError, check_limits
from ritornello.feed import Crops, Lanes
from ritornello.models import build, from_checkpoint, with_inputs
from ritornello.models.protocol import Model
from ritornello.training.fitting import Precision, faster_precision, memory_peak_bytes
from ritornello.training.folder import Journal, Tracker, check_unused, interruptible, locked, resumable
from ritornello.training.optimisers import Optimisers, learning_rate_factor
from ritornello.training.ranks import Ranks, ranks_of
from ritornello.training.readers import Reader, reader_of
from ritornello.training.recipes import Recipe

LOG_EVERY_STEPS = 10
REPORT_EVERY_S = 1.0
COMPOSER_PERFORMANCES = 8  # of a composer in the training split, for a label of their own
RANK_SEEDS = 1_000_003
LEAST_RESERVE_S = 20.0  # that a time budget keeps for its end, besides a last validation


@dataclass(frozen=True)
class Report:
    """One line of progress."""

    step: int
    share: float
    """of the run, 0 to 1"""
    tokens: int
    """predicted so far"""
    nats_per_token: float
    """of the training batches since the last report"""
    tokens_per_s: float
    memory_bytes: int
    """peak of the device's allocator, or of the process on a CPU"""
    left_s: float
    """estimate of the time still to go"""
    validation: float | None
    """nats/token on whole validation pieces, where they were just read"""
    best: float | None


@dataclass
class RunState:
    """Where a run stands."""

    step: int = 0
    tokens: int = 0
    """predicted so far"""
    best: float | None = None
    """lowest validation, nats/token"""
    validated_step: int = 0
    """of the latest validation"""
    seconds: float = 0.0
    """that the run took, at the latest reading of its clock"""
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    save_seconds: float = 0.0
    """what the latest step, validation and save took"""
    share: float = 0.0
    """of the run that is done, 0 to 1, as it was settled with the clock's reading after a step"""
    losses: list[Tensor] = field(default_factory=list)
    """of the latest `LOG_EVERY_STEPS` steps, nats/token"""

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON-able values."""
        return {name: value for name, value in vars(self).items() if name not in ("share", "losses")}

    @classmethod
    def of(cls, progress: dict[str, Any]) -> RunState:
        """From what `progress` gave, or an older version of it, whose last weights are taken to be validated."""
        known = {name: progress[name] for name in cls().progress() if name in progress}
        return cls(**({"validated_step": progress["step"]} | known))


@dataclass(frozen=True)
class Run:
    """What a run is made of. Nothing here is ever another; weights, optimisers and the reader change inside."""

    folder: Path
    recipe: Recipe
    trained_on: dict[str, Any]
    """name and licence of the data"""
    seed: int
    hours: float | None
    steps: int | None
    precision: Precision
    model: Model[Any]
    optimisers: Optimisers
    reader: Reader
    ranks: Ranks
    began_s: float
    """when its clock stood at zero, by the system's"""

    def clock(self) -> float:
        """Seconds that the run took so far, those before it was resumed included: rank 0's, for all."""
        return self.ranks.decided(time.monotonic() - self.began_s)

    def share_done(self, state: RunState) -> float:
        """How much of the steps is done, or of the hours less what the end takes: a step, three saves, a validation."""
        steps = self.recipe.steps if self.steps is None else self.steps
        if self.hours is None:
            return min(1.0, state.step / steps)
        reserve_s = state.validation_seconds + max(LEAST_RESERVE_S, 3 * state.save_seconds + state.step_seconds)
        by_clock = state.seconds / max(self.hours * 3600 - reserve_s, 1e-9)
        return min(1.0, max(by_clock, 0.0 if self.steps is None else state.step / steps))


@dataclass
class News:
    """What has come since the last report."""

    tokens_before: int
    seconds: float = 0.0
    """of training alone"""
    losses: list[Tensor] = field(default_factory=list)

    def add(self, state: RunState) -> None:
        self.seconds += state.step_seconds
        self.losses.append(state.losses[-1])

    def report(self, run: Run, state: RunState, validation: float | None) -> Report:
        return Report(
            step=state.step,
            share=state.share,
            tokens=state.tokens,
            nats_per_token=float(torch.stack(self.losses).mean()) if self.losses else math.nan,
            tokens_per_s=(state.tokens - self.tokens_before) / max(self.seconds, 1e-9),
            memory_bytes=memory_peak_bytes(run.model.device),
            left_s=state.seconds / max(state.share, 1e-9) * (1 - state.share),
            validation=validation,
            best=state.best,
        )


def train(
    corpus: Corpus,
    run: Path,
    recipe: Recipe,
    *,
    hours: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    init: str | Path | None = None,
    resume: bool = False,
    device: torch.device | None = None,
    precision: Precision | None = None,
    report: Callable[[Report], None] = lambda _: None,
    trackers: Sequence[Tracker] = (),
) -> float:
    """Trains a model and keeps its best and last checkpoint in ``run``.

    Args:
        corpus: what to train on.
        run: folder for ``best``, ``last``, the log; refused if it holds a run and ``resume`` is not asked for.
        recipe: everything that decides the run.
        hours: time budget; learning rates follow the clock. Else ``steps`` (the recipe's by default) and a resumed run
            is that of an uninterrupted one, to the bit on a CPU.
        steps: length of the run, in optimiser steps.
        seed: of weights, order and augmentation.
        init: a checkpoint whose weights and sizes to start from (fine-tuning); a resumed run has its own. A model
            without a motif memory gets the recipe's.
        resume: go on from ``run/last`` with its seed, and its length unless another is given.
        device: CUDA where there is one, by default.
        precision: of matrix products; the faster one there by default. A resumed run keeps its own.
        report: called about once a second and after each validation.
        trackers: called with each figure that goes to the log, in rank 0.

    Returns:
        The best validation nats/token.

    Raises:
        RitornelloError: for settings that do not fit, or a folder that cannot be used.
    """
    began_s = time.monotonic()
    _check_length(hours, steps)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with (
        ranks_of(device) as (ranks, device),
        locked(run) if ranks.rank == 0 else nullcontext(),
        interruptible() as interrupted,
    ):
        if ranks.rank == 0 and not resume:
            check_unused(run)
        # The others go on when rank 0 has the folder.
        ranks.check_same(
            version=version("ritornello"),
            corpus=hashlib.sha256(json.dumps(corpus.manifest).encode()).hexdigest(),  # with checks of its pieces
            recipe=recipe.settings(),
            settings=(seed, hours, steps, str(init), resume, precision),
        )
        last = resumable(run, recipe) if resume else None
        if last:
            done = last.run
            seed, precision = done["seed"], done.get("precision", precision)
            hours, steps = (done["hours"], done["steps"]) if hours is None and steps is None else (hours, steps)
            state, trained_on = RunState.of(done), last.trained_on
            torch.manual_seed(seed)
            model = from_checkpoint(last)
        else:
            start = load_checkpoint(init) if init else None
            state, trained_on = RunState(), _trained_on(corpus, start)
            torch.manual_seed(seed)
            model = _first_model(corpus, recipe, start)
        model.to(device).train()
        precision = precision or ranks.all(faster_precision(device, width=model.config.width))[0]
        parts = Run(
            folder=run,
            recipe=recipe,
            trained_on=trained_on,
            seed=seed,
            hours=hours,
            steps=steps,
            precision=precision,
            model=model,
            optimisers=Optimisers(model, recipe),
            reader=reader_of(model, corpus, recipe, seed, precision, ranks),
            ranks=ranks,
            began_s=began_s - state.seconds,
        )
        if last:
            parts.reader.feed.restore(last.run["feed"])
            _restore(parts, state, last.tensors("training"))
        if ranks.rank:
            torch.manual_seed(seed + state.step + ranks.rank * RANK_SEEDS)  # another dropout than rank 0's
        _go_on(parts, state, interrupted, report, trackers)
    return state.best if state.best is not None else math.nan


def _go_on(
    run: Run,
    state: RunState,
    interrupted: list[int],
    report: Callable[[Report], None],
    trackers: Sequence[Tracker],
) -> None:
    """From wherever the run stands to its end, or until it is interrupted."""
    journal = Journal(run.folder, after_step=state.step, trackers=trackers) if run.ranks.rank == 0 else None
    news = News(state.tokens)
    feed_state = run.reader.feed.state()
    if state.step == 0:
        save(run, state, "last", feed_state)  # whatever stops it, there is something to resume; a bad folder shows now
    saved_s = reported_s = state.seconds = run.clock()
    state.share = run.share_done(state)
    with _prefetched(run.reader.feed) as batches:
        while state.share < 1 and not run.ranks.decided(len(interrupted)):
            batch, feed_state = next(batches)
            train_step(run, state, batch)
            now_s = run.clock()
            state.step_seconds, state.seconds = now_s - state.seconds, now_s
            state.share = run.share_done(state)
            news.add(state)
            # A run of hours must know early how many of them a validation takes.
            due = state.step % run.recipe.validate_every_steps == 0 or (run.hours and not state.validation_seconds)
            validation = None
            if due and state.share < 1:
                validation = validate(run, state, journal)
                state.share = run.share_done(state)
            if state.step % LOG_EVERY_STEPS == 0:
                log_losses(run, state, journal)
            if journal and (validation is not None or now_s - reported_s > REPORT_EVERY_S):
                report(news.report(run, state, validation))
                news, reported_s = News(state.tokens), now_s
            if now_s - saved_s > run.recipe.checkpoint_every_s:
                save(run, state, "last", feed_state)
                saved_s = now_s
    if state.share >= 1 and state.validated_step < state.step:
        validation = validate(run, state, journal)
        if journal:
            report(news.report(run, state, validation))
    save(run, state, "last", feed_state)
    if journal:
        journal.close()


def train_step(run: Run, state: RunState, batch: Any) -> None:
    """One update from one batch: loss, gradients, clipping, optimisers."""
    loss = run.reader.nats(batch, state.share).sum() / batch.tokens
    loss.backward()
    loss = run.ranks.add_up(run.model.parameters(), loss.detach())
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.recipe.clip_norm)
    run.optimisers.step(learning_rate_factor(run.recipe, step=state.step, progress=state.share))
    state.step, state.tokens = state.step + 1, state.tokens + batch.tokens
    state.losses = [*state.losses[1 - LOG_EVERY_STEPS :], loss]


def validate(run: Run, state: RunState, journal: Journal | None) -> float:
    """Nats/token of whole validation pieces; where none were lower, the weights are saved as the best."""
    began_s = run.clock()
    nats = run.reader.validate(state.share)
    state.seconds = run.clock()
    state.validated_step, state.validation_seconds = state.step, state.seconds - began_s
    if journal:
        journal.write(state.step, tokens=state.tokens, seconds=state.seconds, validation=nats)
    if state.best is None or nats < state.best:
        state.best = nats
        save(run, state, "best")
    return nats


def log_losses(run: Run, state: RunState, journal: Journal | None) -> None:
    """The mean of the latest steps' losses. Raises RitornelloError where it is no number."""
    mean = float(torch.stack(state.losses).mean())
    if not math.isfinite(mean):
        begin = f"start another run with --init {run.folder / 'best'}"
        raise RitornelloError(f"{run.folder}: the loss became {mean} at step {state.step}; {begin}")
    if journal:
        journal.write(state.step, tokens=state.tokens, seconds=state.seconds, nats=mean)


def save(run: Run, state: RunState, name: str, feed_state: dict[str, Any] | None = None) -> None:
    """Writes a checkpoint of that name; with the feed's state, one to resume from."""
    began_s = state.seconds = run.clock()
    config, tensors = run.model.config, {"weights": run.model.state_dict()}
    progress = {
        **state.progress(),
        "legal": run.recipe.legal,
        "precision": run.precision,
        "recipe": run.recipe.settings(),
        "seed": run.seed,
        "hours": run.hours,
        "steps": run.steps,
    }
    if feed_state is not None:
        progress["feed"] = feed_state
        tensors["training"] = _training_tensors(run, state)
    if run.ranks.rank == 0:
        save_checkpoint(
            run.folder / name,
            family=config.family,
            config=config.to_json(),
            trained_on=run.trained_on,
            run=progress,
            tensors=tensors,
        )
    state.seconds = run.clock()
    state.save_seconds = state.seconds - began_s


def _training_tensors(run: Run, state: RunState) -> dict[str, Tensor]:
    device, losses = run.model.device, state.losses[1 - LOG_EVERY_STEPS :]  # the log's next mean needs them
    tensors = {f"optimiser/{name}": tensor for name, tensor in run.optimisers.tensors().items()}
    tensors |= {f"state/{name}": tensor for name, tensor in run.reader.tensors().items()}
    tensors["losses"] = torch.stack(losses) if losses else torch.zeros(0)
    tensors["random/cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def _restore(run: Run, state: RunState, tensors: dict[str, Tensor]) -> None:
    """Puts back what `_training_tensors` gave."""
    device = run.model.device
    for prefix, restore in (("optimiser/", run.optimisers.restore), ("state/", run.reader.restore)):
        restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    state.losses = list(tensors.get("losses", torch.zeros(0)).to(device))
    torch.set_rng_state(tensors["random/cpu"])
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)


def _first_model(corpus: Corpus, recipe: Recipe, init: Checkpoint | None) -> Model[Any]:
    """The recipe's model, or that of a checkpoint with the recipe's motif memory and labels."""
    if init and init.family != recipe.model.family:
        raise RitornelloError(f"{init.folder}: is of the family {init.family}; name a recipe of that family with it")
    model = from_checkpoint(init) if init else build(recipe.model)
    labels = _labels(corpus) if recipe.label_share else ()
    return with_inputs(model, motif_notes=recipe.model.motif_notes, recalls=recipe.model.recalls, labels=labels)


def _labels(corpus: Corpus) -> tuple[str, ...]:
    """What a model of the corpus can be told: composers heard often, and the sources but the first."""
    records = corpus.pieces("train")
    heard = Counter(record.composer for record in records if record.composer)
    composers = sorted(name for name, number in heard.items() if number >= COMPOSER_PERFORMANCES and name != "unknown")
    return steering.labels(composers, [source["name"] for source in corpus.sources[1:]])


def _trained_on(corpus: Corpus, init: Checkpoint | None) -> dict[str, Any]:
    """Name and licence of the data, and how long the shortest performance is.

    Fine-tuned weights stay under the licence of those they began from as well.
    """
    now = {"name": corpus.name, "licence": corpus.licence}
    before = init.trained_on if init else {}
    told = {key: [*before.get(key, "").split("; "), now[key]] for key in now}
    shortest_s = min(record.seconds for record in corpus.pieces("train"))
    return {
        **{key: "; ".join(dict.fromkeys(filter(None, parts))) for key, parts in told.items()},
        "shortest_s": min(shortest_s, before.get("shortest_s", shortest_s)),
    }


def _check_length(hours: float | None, steps: int | None) -> None:
    least = LEAST_RESERVE_S / 3600
    if hours is not None and not least < hours <= 10_000:
        raise RitornelloError(f"hours is {hours}; it must lie between {least:.3f} and 10,000")
    check_limits(steps=(steps, 1, 10**9))


@contextmanager
def _prefetched(feed: Lanes | Crops) -> Iterator[Iterator[tuple[Any, dict[str, Any]]]]:
    """Batches made in a thread while the step before them runs, each with the feed's state behind it."""

    def take() -> tuple[Any, dict[str, Any]]:
        return next(feed), feed.state()

    def batches() -> Iterator[tuple[Any, dict[str, Any]]]:
        pending = pool.submit(take)
        while True:
            taken = pending.result()
            pending = pool.submit(take)
            yield taken

    with ThreadPoolExecutor(1) as pool:
        yield batches()
