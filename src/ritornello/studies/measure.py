"""One run of a study: trains a row, reads whole pieces with it, and makes its record."""

from __future__ import annotations

import json
import platform
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ritornello import codec
from ritornello.checkpoint import MANIFEST, load_checkpoint
from ritornello.corpus import Corpus
from ritornello.engines.framework import TorchEngine
from ritornello.evaluation import Evaluation, evaluate
from ritornello.files import write_whole
from ritornello.models import from_checkpoint
from ritornello.models.protocol import Model
from ritornello.recall import HEARD_TOKENS, repeat_test
from ritornello.studies.record import (
    BEGINNING_TOKENS,
    BLOCK_TOKENS,
    Bin,
    Conditions,
    Cut,
    Likelihood,
    LogLine,
    Machine,
    Material,
    PieceNats,
    Playing,
    Record,
    Training,
    from_json,
    training_path,
)
from ritornello.studies.study import recipes_of, steps_of, study_named
from ritornello.training.display import plainly
from ritornello.training.folder import read_journal
from ritornello.training.loop import Report, memory_peak_bytes, train
from ritornello.training.recipes import Recipe

CUTS_TOKENS = (0, 128, 512, 2048)  # no layer remembers more than this, in a model trained with more
PLAYED_BEFORE_TOKENS = 8192
STRETCHES, STRETCH_TOKENS = 8, 256  # timed
MEMORY = "memory.json"  # in a training's folder
PASSAGE_NOTES = 8
APART_TOKENS = 2000
AGE_EDGES_TOKENS = (0, 512, 2048, 8192)  # of returns, by how long ago they were played last; the last bin is open
NEVER = -1


def measure_run(corpus: Corpus, out: Path, conditions: Conditions, row: str, seed: int, device: torch.device) -> bool:
    """Trains one row, reads the validation pieces with it, and writes its record. False if it was stopped before."""
    folder, recipe, study = training_path(out, row, seed), recipes_of(conditions)[row], study_named(conditions.study)
    steps, legal = steps_of(conditions, recipe), conditions.legal
    memory = _train(corpus, folder, recipe, steps, seed, device, conditions.precision)
    last = load_checkpoint(folder / "last").run
    if last["step"] < steps:
        return False
    best = load_checkpoint(folder / "best")
    model, journal = from_checkpoint(best).to(device), read_journal(folder)
    records, count = corpus.pieces("validation"), conditions.pieces
    pieces = sorted(np.random.default_rng(0).permutation(len(records))[:count].tolist())
    how: dict[str, Any] = {"legal": legal, "precision": conditions.precision}

    def whole(model: Model[Any]) -> Evaluation:
        return evaluate(model, corpus, "validation", pieces=pieces, **how)

    evaluation = whole(model)
    beginnings = evaluate(model, _beginnings(corpus), "validation", **how)
    long = max(record.tokens for record in records) > HEARD_TOKENS
    Record(
        row=row,
        seed=seed,
        settings=conditions,
        recipe=recipe,
        model=model.config,
        parameters=sum(p.numel() for p in model.parameters()),
        machine=machine(device),
        training=Training(
            tokens=last["tokens"],
            seconds=last["seconds"],
            best_step=best.run["step"],
            tokens_per_s=speed(journal),
            **memory,
            log=from_json(tuple[LogLine, ...], journal),
        ),
        evaluation=from_json(Likelihood, evaluation.figures()),
        by_piece=_by_piece(evaluation),
        beginnings=_by_piece(beginnings),
        material=_material(corpus, evaluation),
        repeats=tuple(repeat_test(model, corpus, "validation", legal=legal, most_pieces=count)) if long else (),
        cuts=_cuts(model, whole) if study.of_memory else (),
        playing=_play(from_checkpoint(best), corpus) if study.of_memory else None,
    ).write(out)
    return True


def speed(journal: list[dict[str, Any]]) -> float | None:
    """Tokens/s of training: the median between neighbouring lines of the log without validations; None of one line."""
    rates = [
        (b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"])
        for a, b in pairwise(journal)
        if "nats" in a and "nats" in b and b["seconds"] > a["seconds"]
    ]
    return statistics.median(rates) if rates else None


def machine(device: torch.device) -> Machine:
    """What a figure was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Machine(device=name, threads=torch.get_num_threads(), torch=torch.__version__)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _train(
    corpus: Corpus, folder: Path, recipe: Recipe, steps: int, seed: int, device: torch.device, precision: Any
) -> dict[str, int]:
    """Trains, or goes on with it; idle and peak bytes of the process, of all that trained, that took the most."""
    idle_bytes, path = memory_peak_bytes(device), folder / MEMORY
    resume = (folder / "last" / MANIFEST).exists()
    memory: dict[str, int] = {"idle_bytes": idle_bytes, "peak_bytes": idle_bytes}
    if resume and path.exists():
        memory = json.loads(path.read_text(encoding="utf-8"))
    show = plainly(folder.name)

    def note(report: Report) -> None:
        nonlocal memory
        if report.memory_bytes - idle_bytes > memory["peak_bytes"] - memory["idle_bytes"]:
            memory = {"idle_bytes": idle_bytes, "peak_bytes": report.memory_bytes}
            write_whole(path, json.dumps(memory))
        show(report)

    settings: dict[str, Any] = {"steps": steps, "seed": seed, "precision": precision}
    train(corpus, folder, recipe, **settings, resume=resume, device=device, report=note)
    return memory


def _by_piece(evaluation: Evaluation) -> tuple[PieceNats, ...]:
    pieces = []
    for record, nats in zip(evaluation.records, evaluation.nats):
        blocks = np.add.reduceat(nats, np.arange(0, len(nats), BLOCK_TOKENS), dtype=np.float64)
        composition, total = f"{record.composer}: {record.title}", float(nats.sum(dtype=np.float64))
        rounded = tuple(round(block, 4) for block in blocks.tolist())
        pieces.append(PieceNats(composition=composition, nats=total, tokens=len(nats), blocks=rounded))
    return tuple(pieces)


def _beginnings(corpus: Corpus) -> Corpus:
    """The corpus with nothing left of its pieces but the first `BEGINNING_TOKENS`."""
    shorter = Corpus.open(corpus.path)
    shorter.records = [replace(record, tokens=min(record.tokens, BEGINNING_TOKENS)) for record in corpus.records]
    return shorter


def _cuts(model: Model[Any], read: Callable[[Model[Any]], Evaluation]) -> tuple[Cut, ...]:
    """A model of horizons whose every layer is left so many tokens at most; none of any other."""
    schedule, cuts = model.config.schedule, []
    for most in CUTS_TOKENS if schedule else ():
        assert schedule is not None
        shorter = schedule.limited(most)
        if shorter != schedule:
            nats = read(model.rescheduled(shorter)).nats_per_token
            cuts.append(Cut(most_tokens=most, budget_tokens=shorter.budget_tokens or 0, nats_per_token=nats))
    return tuple(cuts)


def _play(model: Model[Any], corpus: Corpus) -> Playing:
    """What a token costs one thread of the CPU deep in a piece, windows' moves included, and the session's bytes."""
    longest = max(corpus.pieces("validation"), key=lambda record: record.tokens)
    tokens = np.resize(corpus.tokens(longest), PLAYED_BEFORE_TOKENS + STRETCHES * STRETCH_TOKENS)
    session, took_s = TorchEngine(model).begin(), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that processor time is what it would take alone
    session.read(tokens[:PLAYED_BEFORE_TOKENS])
    for stretch in tokens[PLAYED_BEFORE_TOKENS:].reshape(STRETCHES, STRETCH_TOKENS):
        began_s = time.process_time()
        for token in stretch:
            session.read(np.array([token]))
        took_s.append(time.process_time() - began_s)
    torch.set_num_threads(threads)
    cost_s = statistics.median(took_s) / STRETCH_TOKENS
    return Playing(after_tokens=PLAYED_BEFORE_TOKENS, cpu_seconds_per_token=cost_s, session_bytes=session.nbytes)


def _material(corpus: Corpus, evaluation: Evaluation) -> Material:
    """Returning passages and all other tokens, where something can have returned; and every token by its age."""
    since = [ages(corpus.tokens(record)) for record in evaluation.records]
    nats, (last, first) = np.concatenate(evaluation.nats), np.concatenate(since, axis=1)
    late = np.concatenate([np.arange(piece.shape[1]) >= APART_TOKENS for piece in since])
    edges = zip(AGE_EDGES_TOKENS, (*AGE_EDGES_TOKENS[1:], None))
    return Material(
        passage_notes=PASSAGE_NOTES,
        apart_tokens=APART_TOKENS,
        returning=_bin(nats[late & (first > APART_TOKENS)]),
        new=_bin(nats[late & (first <= APART_TOKENS)]),
        by_age=(
            _bin(nats[last == NEVER]),
            *(_bin(nats[(last >= low) & (last < (high or np.inf))], low, high) for low, high in edges),
        ),
    )


def _bin(nats: NDArray[np.floating], low: int | None = None, high: int | None = None) -> Bin:
    mean = float(nats.mean(dtype=np.float64)) if len(nats) else None
    return Bin(from_=low, to=high, tokens=len(nats), nats_per_token=mean)


def ages(tokens: NDArray[np.integer], *, notes: int = PASSAGE_NOTES) -> NDArray[np.int64]:
    """How long ago each token's passage was played, in tokens from the end of an earlier time to its beginning now.

    In the tokens (T,) of a piece a passage is ``notes`` consecutive strikes, compared by their pitches in order; timing
    and dynamics may differ, as they do in performances. Everything from its first strike to its last belongs to it.
    Times may not overlap.

    Returns:
        (2, T): since its last time, of several passages the smallest; since its first, of several the greatest. `NEVER`
        outside of what returned.
    """
    strikes = np.flatnonzero(np.asarray(tokens) < codec.NOTE_OFF)
    pitches, result = tokens[strikes].tolist(), np.full((2, len(tokens)), NEVER)
    starts: dict[tuple[int, ...], list[int]] = {}
    for now in range(len(strikes) - notes + 1):
        earlier = starts.setdefault(tuple(pitches[now : now + notes]), [])
        apart = bisect_right(earlier, now - notes)
        if apart:
            last, first = (strikes[now] - strikes[earlier[i] + notes - 1] for i in (apart - 1, 0))
            smallest, greatest = result[:, strikes[now] : strikes[now + notes - 1] + 1]
            smallest[:] = np.where(smallest == NEVER, last, np.minimum(smallest, last))
            greatest[:] = np.maximum(greatest, first)
        earlier.append(now)
    return result
