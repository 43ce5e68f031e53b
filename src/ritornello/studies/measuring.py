"""One run of a study: trains a row, reads whole pieces with it, and writes down what came of it."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ritornello.checkpoint import MANIFEST, load_checkpoint
from ritornello.corpus import Corpus
from ritornello.engines.framework import TorchEngine
from ritornello.evaluation import Evaluation, evaluate
from ritornello.files import write_whole
from ritornello.horizons import HorizonSchedule
from ritornello.models import from_checkpoint
from ritornello.models.protocol import Model
from ritornello.recall import HEARD_TOKENS, repeat_test
from ritornello.studies.material import AGE_EDGES_TOKENS, APART_TOKENS, NEVER, PASSAGE_NOTES, ages, returning
from ritornello.studies.results import BEGINNING_TOKENS, BLOCK_TOKENS, result_path, training_path
from ritornello.studies.rows import STUDIES
from ritornello.studies.settings import StudySettings
from ritornello.training.display import watch_plainly
from ritornello.training.journal import read_journal
from ritornello.training.loop import Report, memory_peak_bytes, train
from ritornello.training.recipes import Recipe

CUTS_TOKENS = (0, 128, 512, 2048)  # no layer remembers more than this, in a model trained with more
PLAYED_BEFORE_TOKENS = 8192
STRETCHES, STRETCH_TOKENS = 8, 256  # timed
MEMORY = "memory.json"  # in a training's folder


def one_run(corpus: Corpus, out: Path, settings: StudySettings, row: str, seed: int, device: torch.device) -> bool:
    """Trains one row, reads the validation pieces with it, and writes its figures. False if it was stopped before."""
    folder, recipe = training_path(out, row, seed), settings.recipes()[row]
    memory = _train(corpus, folder, settings, recipe, seed, device)
    last = load_checkpoint(folder / "last").progress
    if last["step"] < settings.steps_of(recipe):
        return False
    best = load_checkpoint(folder / "best")
    model = from_checkpoint(best).to(device)
    config = model.config.to_json()
    journal = read_journal(folder)
    figures: dict[str, Any] = {
        "row": row,
        "schedule": config.get("schedule"),
        "segmentation": recipe.segmentation if model.config.crops else None,
        "recipe": recipe.settings(),
        "model": {"family": model.config.family, **config},
        "seed": seed,
        "settings": settings.as_json(corpus),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine(device),
        "training": {
            "tokens": last["tokens"],
            "seconds": last["seconds"],
            "best_step": best.progress["step"],
            "tokens_per_s": speed(journal),
            **memory,
            "log": [{k: v for k, v in line.items() if k != "step"} for line in journal],
        },
        **_read(model, corpus, settings),
    }
    if STUDIES[settings.study].of_memory:
        figures["cuts"] = _cuts(model, lambda shorter: _whole(shorter, corpus, settings))
        figures["playing"] = _play(from_checkpoint(best), corpus)
    write_whole(result_path(out, row, seed), json.dumps(figures, indent=1) + "\n")
    return True


def speed(journal: list[dict[str, Any]]) -> float | None:
    """Tokens/s of training: the median between neighbouring lines of the log without validations; None of one line."""
    rates = [
        (b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"])
        for a, b in pairwise(journal)
        if "nats" in a and "nats" in b and b["seconds"] > a["seconds"]
    ]
    return statistics.median(rates) if rates else None


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _train(
    corpus: Corpus, folder: Path, settings: StudySettings, recipe: Recipe, seed: int, device: torch.device
) -> dict[str, int]:
    """Trains, or goes on with it; idle and peak bytes of the process, of all that trained, that took the most."""
    idle_bytes, path = memory_peak_bytes(device), folder / MEMORY
    resume = (folder / "last" / MANIFEST).exists()
    memory: dict[str, int] = {"idle_bytes": idle_bytes, "peak_bytes": idle_bytes}
    if resume and path.exists():
        memory = json.loads(path.read_text(encoding="utf-8"))

    with watch_plainly(folder.name) as show:

        def note(report: Report) -> None:
            nonlocal memory
            if report.memory_bytes - idle_bytes > memory["peak_bytes"] - memory["idle_bytes"]:
                memory = {"idle_bytes": idle_bytes, "peak_bytes": report.memory_bytes}
                write_whole(path, json.dumps(memory))
            show(report)

        train(
            corpus,
            folder,
            recipe,
            steps=settings.steps_of(recipe),
            seed=seed,
            resume=resume,
            device=device,
            precision=settings.precision,
            report=note,
        )
    return memory


def _read(model: Model[Any], corpus: Corpus, settings: StudySettings) -> dict[str, Any]:
    """Figures of whole validation pieces, and of what every one of them begins with."""
    whole = _whole(model, corpus, settings)
    beginnings = evaluate(model, _beginnings(corpus), "validation", legal=settings.legal, autocast=_autocast(settings))
    return {
        "evaluation": whole.figures(),
        "by_piece": _by_piece(whole),
        "beginnings": _by_piece(beginnings),
        "material": _by_material(corpus, whole),
        "repeats": _repeats(model, corpus, settings),
    }


def _repeats(model: Model[Any], corpus: Corpus, settings: StudySettings) -> list[dict[str, Any]]:
    """The repeat test, with every piece's gains; nothing where no piece is long enough."""
    if max(record.tokens for record in corpus.pieces("validation")) <= HEARD_TOKENS:
        return []
    read = repeat_test(model, corpus, "validation", legal=settings.legal, most_pieces=settings.pieces)
    return [{**recall.figures(), "gains": recall.gains} for recall in read]


def _whole(model: Model[Any], corpus: Corpus, settings: StudySettings) -> Evaluation:
    pieces = _chosen_pieces(corpus, settings.pieces)
    return evaluate(model, corpus, "validation", legal=settings.legal, pieces=pieces, autocast=_autocast(settings))


def _autocast(settings: StudySettings) -> torch.dtype | None:
    return torch.bfloat16 if settings.precision == "bf16" else None


def _by_piece(read: Evaluation) -> list[dict[str, Any]]:
    """Each piece's nats, in all and in blocks of `BLOCK_TOKENS`, and its composition, which others may share."""
    pieces = []
    for record, nats in zip(read.records, read.nats):
        blocks = np.add.reduceat(nats, np.arange(0, len(nats), BLOCK_TOKENS), dtype=np.float64)
        pieces.append(
            {
                "composition": f"{record.composer}: {record.title}",
                "nats": float(nats.sum(dtype=np.float64)),
                "tokens": len(nats),
                "blocks": [round(block, 4) for block in blocks.tolist()],
            }
        )
    return pieces


def _beginnings(corpus: Corpus) -> Corpus:
    """The corpus with nothing left of its pieces but the first `BEGINNING_TOKENS`."""
    shorter = Corpus.open(corpus.path)
    shorter.records = [replace(record, tokens=min(record.tokens, BEGINNING_TOKENS)) for record in corpus.records]
    return shorter


def _cuts(model: Model[Any], read: Callable[[Model[Any]], Evaluation]) -> list[dict[str, Any]]:
    """Nats/token of a model of horizons whose every layer is left so many tokens at most; none of any other."""
    schedule, cuts = model.config.schedule, []
    if schedule is None:
        return []
    for most in CUTS_TOKENS:
        shorter = HorizonSchedule(tuple(most if h is None else min(h, most) for h in schedule.horizons), schedule.rule)
        if shorter != schedule:
            left = {"most_tokens": most, "budget_tokens": shorter.budget_tokens}
            cuts.append({**left, "nats_per_token": read(model.rescheduled(shorter)).nats_per_token})
    return cuts


def _play(model: Model[Any], corpus: Corpus) -> dict[str, Any]:
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
    return {
        "after_tokens": PLAYED_BEFORE_TOKENS,
        "cpu_seconds_per_token": statistics.median(took_s) / STRETCH_TOKENS,
        "session_bytes": session.nbytes,
    }


def _by_material(corpus: Corpus, read: Evaluation) -> dict[str, Any]:
    """Nats of tokens in returning passages and of all others, where something can have returned."""
    nats: dict[str, list[Any]] = {"returning": [], "new": []}
    every_age, every_nat = [], []
    for record, piece in zip(read.records, read.nats):
        tokens = corpus.tokens(record)
        back = returning(tokens)
        nats["returning"].append(piece[APART_TOKENS:][back[APART_TOKENS:]])
        nats["new"].append(piece[APART_TOKENS:][~back[APART_TOKENS:]])
        every_age.append(ages(tokens))
        every_nat.append(piece)
    means: dict[str, Any] = {"passage_notes": PASSAGE_NOTES, "apart_tokens": APART_TOKENS}
    means |= {kind: _mean(np.concatenate(parts)) for kind, parts in nats.items()}
    age, nat = np.concatenate(every_age), np.concatenate(every_nat)
    bins = zip(AGE_EDGES_TOKENS, (*AGE_EDGES_TOKENS[1:], None))
    of_ages = [{"from": low, "to": high, **_mean(nat[(age >= low) & (age < (high or np.inf))])} for low, high in bins]
    means["by_age"] = [{"from": None, "to": None, **_mean(nat[age == NEVER])}, *of_ages]
    return means


def _mean(nats: NDArray[np.floating]) -> dict[str, Any]:
    return {"tokens": len(nats), "nats_per_token": float(nats.mean(dtype=np.float64)) if len(nats) else None}


def _chosen_pieces(corpus: Corpus, count: int) -> list[int] | None:
    there = len(corpus.pieces("validation"))
    return sorted(np.random.default_rng(0).permutation(there)[:count].tolist()) if count < there else None
