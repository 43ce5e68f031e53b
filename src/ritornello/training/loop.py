"""The training loop: lanes stream whole pieces, the state is carried and detached, one segment is one step."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ritornello import codec
from ritornello.checkpoint import MANIFEST, Checkpoint, load_checkpoint, save_checkpoint
from ritornello.codec import steering
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.evaluation import evaluate
from ritornello.feed import Crops, Lanes
from ritornello.likelihood import to_device, token_nats
from ritornello.models import build, from_checkpoint, with_inputs
from ritornello.training.journal import Journal
from ritornello.training.optimisers import Optimisers, learning_rate_factor
from ritornello.training.precision import Precision, faster_precision
from ritornello.training.readers import Reader, reader_of
from ritornello.training.recipes import Recipe, with_defaults

LOG_EVERY_STEPS = 10
COMPOSER_PERFORMANCES = 8  # of a composer in the training split, for a label of their own
WAIT_S = 10.0  # for another process to leave a run's folder: one that was asked to stop is saving
SAVE_MARGIN_S = 20.0  # a time budget keeps this much for the last save, and as much as a validation took


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

    Returns:
        The best validation nats/token.

    Raises:
        RitornelloError: for settings that do not fit, or a folder that cannot be used.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    last = _resumable(run, recipe) if resume else None
    if last is None:
        _check_unused(run)
    done: dict[str, Any] = last.progress if last else {"step": 0, "tokens": 0, "seconds": 0.0, "best": None}
    if last and hours is None and steps is None:
        hours, steps = done["hours"], done["steps"]
    seed = done["seed"] if last else seed
    n_steps = recipe.steps if steps is None else steps
    _check_limits(hours, n_steps)

    torch.manual_seed(seed)
    start = last or (load_checkpoint(init) if init else None)
    data = last.data if last else _trained_on(corpus, start)
    if start and start.family != recipe.model.family:
        raise RitornelloError(f"{start.folder}: is of the family {start.family}; name a recipe of that family with it")
    model = from_checkpoint(start) if start else build(recipe.model)
    if not last:
        model = with_inputs(model, motif_notes=recipe.model.motif_notes, labels=_labels(corpus) if recipe.told else ())
    model.to(device).train()
    optimisers = Optimisers(model, recipe)
    precision = done.get("precision") or precision or faster_precision(device, width=model.config.width)
    reader = reader_of(model, corpus, recipe, seed, precision)
    feed = reader.feed
    validation_pieces = _validation_pieces(corpus, recipe)
    autocast = torch.bfloat16 if precision == "bf16" else None
    losses: list[Tensor] = []
    if last:
        feed.restore(done["feed"])
        losses = _restore(last.tensors("training"), optimisers, reader, device)

    step, tokens, best = done["step"], done["tokens"], done["best"]
    validation_s = done.get("validation_seconds", 0.0)
    before_s, began_s = done["seconds"], time.monotonic()
    saved_s = reported_s = began_s
    logged_tokens, logged_s = tokens, began_s

    def elapsed_s() -> float:
        return before_s + time.monotonic() - began_s

    def share() -> float:
        by_clock = elapsed_s() / max(hours * 3600 - SAVE_MARGIN_S - validation_s, 1e-9) if hours else 0.0
        return min(1.0, max(by_clock, 0.0 if hours and not steps else step / n_steps))

    def save(name: str, feed_state: dict[str, Any] | None) -> None:
        progress = {
            "step": step,
            "tokens": tokens,
            "seconds": elapsed_s(),
            "validation_seconds": validation_s,
            "best": best,
            "legal": recipe.legal,
            "precision": precision,
            "recipe": recipe.settings(),
            "seed": seed,
            "hours": hours,
            "steps": steps,
        }
        tensors = {"weights": model.state_dict()}
        if feed_state is not None:
            progress["feed"] = feed_state
            tensors["training"] = _training_tensors(optimisers, reader, losses[1 - LOG_EVERY_STEPS :], device)
        family, config = model.config.family, model.config.to_json()
        save_checkpoint(run / name, family=family, config=config, data=data, progress=progress, tensors=tensors)

    with _alone(run), _interruptible() as interrupted, _ahead(feed) as batches:
        journal = Journal(run, after_step=step)
        feed_state = feed.state() if not last else done["feed"]
        if not last:
            save("last", feed_state)  # whatever stops the run, there is something to resume; a bad folder shows now
        while share() < 1.0 and not interrupted:
            batch, feed_state = next(batches)
            targets = torch.from_numpy(batch.targets).to(device, non_blocking=True)
            inputs = torch.from_numpy(batch.inputs).to(device, non_blocking=True)
            count = int(np.count_nonzero(batch.targets != codec.PAD))
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                logits = reader.logits(batch, inputs, share())
            loss = token_nats(logits, targets, to_device(batch.context, device)).sum() / count
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimisers.step(learning_rate_factor(recipe, step=step, progress=share()))
            step, tokens = step + 1, tokens + count
            losses.append(loss.detach())

            validation = None
            if step % recipe.validate_every_steps == 0 or share() >= 1.0:
                paused_s = time.monotonic()
                validation = evaluate(
                    model, corpus, "validation", legal=recipe.legal, pieces=validation_pieces, autocast=autocast
                ).nats_per_token
                took_s = time.monotonic() - paused_s
                validation_s, logged_s = max(validation_s, took_s), logged_s + took_s  # tokens/s are of training alone
                journal.write(step, tokens=tokens, seconds=elapsed_s(), validation=validation)
                if best is None or validation < best:
                    best = validation
                    save("best", None)
            if step % LOG_EVERY_STEPS == 0:
                mean = float(torch.stack(losses[-LOG_EVERY_STEPS:]).mean())
                if not math.isfinite(mean):
                    raise RitornelloError(
                        f"{run}: the loss became {mean} at step {step}; start another run with --init {run / 'best'}"
                    )
                journal.write(step, tokens=tokens, seconds=elapsed_s(), nats=mean)
            now_s = time.monotonic()
            if validation is not None or now_s - reported_s > 1:
                speed = (tokens - logged_tokens) / (now_s - logged_s)
                left_s = elapsed_s() / max(share(), 1e-9) * (1 - share())
                nats = float(torch.stack(losses).mean())
                report(Report(step, share(), tokens, nats, speed, memory_peak_bytes(device), left_s, validation, best))
                reported_s, losses = now_s, losses[-LOG_EVERY_STEPS + 1 :]
                logged_tokens, logged_s = tokens, now_s
            if now_s - saved_s > recipe.checkpoint_every_s:
                save("last", feed_state)
                saved_s = now_s
        save("last", feed_state)
        journal.close()
    return best if best is not None else math.nan


@contextmanager
def _ahead(feed: Lanes | Crops) -> Iterator[Iterator[tuple[Any, dict[str, Any]]]]:
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


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_unused(run: Path) -> None:
    if any((run / name / MANIFEST).exists() for name in ("last", "best")):
        raise RitornelloError(f"{run}: holds a run already; add --resume to go on with it, or name another folder")


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """The folder, made if need be, to this process alone; the system gives it back however the process ends."""
    lock = FileLock(run / ".lock", timeout=WAIT_S)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RitornelloError(f"{run}: another process trains there; wait for it or name another folder") from None
    except OSError as error:
        raise RitornelloError(f"{run}: cannot be made ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        lock.release()


def _resumable(run: Path, recipe: Recipe) -> Checkpoint:
    if (run / "last").is_dir():
        with _alone(run):
            pass  # nobody is about to save a later one
    last = load_checkpoint(run / "last")
    before, now = with_defaults(last.progress["recipe"]), recipe.settings()
    for key in now:
        if before[key] != now[key]:
            was = f"was trained with {key} = {before[key]}, not {now[key]}"
            raise RitornelloError(f"{run}: {was}; resume it unchanged")
    return last


def _check_limits(hours: float | None, steps: int) -> None:
    if hours is not None and not SAVE_MARGIN_S / 3600 < hours <= 10_000:
        raise RitornelloError(f"hours is {hours}; it must lie between {SAVE_MARGIN_S / 3600:.3f} and 10,000")
    if not 1 <= steps <= 10**9:
        raise RitornelloError(f"steps is {steps}; it must lie between 1 and 1,000,000,000")


def _trained_on(corpus: Corpus, start: Checkpoint | None) -> dict[str, str]:
    """Name and licence of the data; fine-tuned weights stay under the licence of those they began from as well."""
    now = {"name": corpus.name, "licence": corpus.licence}
    before = start.data if start else {}
    return {key: "; ".join(dict.fromkeys(filter(None, (before.get(key, ""), now[key])))) for key in now}


def _labels(corpus: Corpus) -> tuple[str, ...]:
    """What a model of the corpus can be told: composers heard often, and the sources but the first, which needs none."""
    records = corpus.pieces("train")
    heard = Counter(record.composer for record in records if record.composer)
    composers = sorted(
        name for name, performances in heard.items() if performances >= COMPOSER_PERFORMANCES and name != "unknown"
    )
    sources = list(dict.fromkeys(record.source.split("/")[0] for record in records))
    return steering.labels(composers, sources[1:])


def _validation_pieces(corpus: Corpus, recipe: Recipe) -> list[int] | None:
    there = len(corpus.pieces("validation"))
    if recipe.validation_pieces is None or recipe.validation_pieces >= there:
        return None
    return sorted(np.random.default_rng(0).permutation(there)[: recipe.validation_pieces].tolist())


def _training_tensors(
    optimisers: Optimisers, reader: Reader, losses: list[Tensor], device: torch.device
) -> dict[str, Tensor]:
    tensors = {f"optimiser/{name}": tensor for name, tensor in optimisers.tensors().items()}
    tensors |= {f"state/{name}": tensor for name, tensor in reader.tensors().items()}
    tensors["losses"] = torch.stack(losses) if losses else torch.zeros(0)  # the log's next mean needs them
    tensors["random/cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["random/cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def _restore(tensors: dict[str, Tensor], optimisers: Optimisers, reader: Reader, device: torch.device) -> list[Tensor]:
    """Puts back what `_training_tensors` gave; returns the latest losses."""
    for prefix, restore in (("optimiser/", optimisers.restore), ("state/", reader.restore)):
        restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    torch.set_rng_state(tensors["random/cpu"])
    if device.type == "cuda" and "random/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random/cuda"], device)
    return list(tensors.get("losses", torch.zeros(0)).to(device))


def memory_peak_bytes(device: torch.device) -> int:
    """The most that the device's allocator has held; on a CPU, the most that the process has had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is in KiB
