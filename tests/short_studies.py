"""What makes a study short, and reads its tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from ritornello.corpus import Corpus
from ritornello.models.config import ModelConfig
from ritornello.studies import measure
from ritornello.studies.record import (
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
)
from ritornello.studies.study import recipes_of, study_named
from ritornello.training.recipes import Recipe


def conditions(study: str = "dsmr", corpus: Corpus | None = None, **asked: Any) -> Conditions:
    """What a command asks of a study; of no corpus for what does not depend on one."""
    nothing: Any = SimpleNamespace(name="nothing", pieces=lambda split: [])
    return study_named(study).conditions(corpus or nothing, **asked)


def rows_of(study: str = "dsmr", **asked: Any) -> dict[str, Recipe]:
    """The recipes of its rows."""
    return recipes_of(conditions(study, **asked))


def record(
    row: str,
    seed: int = 0,
    *,
    nats: Sequence[float],
    tokens: Sequence[int],
    compositions: Sequence[str] = (),
    model: ModelConfig,
    study: str = "dsmr",
    settings: Mapping[str, Any] = MappingProxyType({}),
    recipe: Mapping[str, Any] = MappingProxyType({}),
    training: Mapping[str, Any] = MappingProxyType({}),
    **changes: Any,
) -> Record:
    """A run with round numbers, whose pieces have these nats and tokens, a block each."""
    names = compositions or [str(number) for number in range(len(nats))]
    pieces = tuple(
        PieceNats(composition=name, nats=n, tokens=t, blocks=(n,)) for name, n, t in zip(names, nats, tokens)
    )
    per_token = sum(nats) / sum(tokens)
    asked = conditions(study, steps=60, budget_tokens=1792)
    own = replace(asked.recipe_settings, model=model, interleave=1)
    data = {"corpus": "Etudes", "corpus_tokens": {"train": 123456, "validation": sum(tokens)}}
    times: dict[str, Any] = {"tokens": 61440, "seconds": 10.0, "best_step": 60, "tokens_per_s": 1000.0}
    log = tuple(LogLine(tokens=100 * i, seconds=i, nats=3 - i / 10, validation=3 - i / 10) for i in range(1, 7))
    run = Record(
        row=row,
        seed=seed,
        settings=replace(asked, recipe_settings=replace(own, lanes=4, **recipe), **data | {**settings}),
        recipe=replace(own, **recipe),
        model=model,
        parameters=250_000,
        machine=Machine(device="an abacus", threads=2, torch="2.9"),
        training=Training(**times | {"idle_bytes": 10_000_000, "peak_bytes": 50_000_000, "log": log} | {**training}),
        evaluation=Likelihood(
            kind="free",
            pieces=len(nats),
            tokens=sum(tokens),
            nats_per_token=per_token,
            perplexity=math.exp(per_token),
            nats_per_note=1.0,
            nats_per_second=1.0,
            by_position=(
                Bin(from_=0, to=128, tokens=228, nats_per_token=2.5),
                Bin(from_=128, tokens=172, nats_per_token=1.5),
            ),
        ),
        by_piece=pieces,
        beginnings=pieces,
        material=Material(
            passage_notes=8,
            apart_tokens=2000,
            returning=Bin(tokens=5, nats_per_token=1.25),
            new=Bin(tokens=7, nats_per_token=2.25),
        ),
        cuts=(Cut(most_tokens=0, budget_tokens=0, nats_per_token=2.75),) if model.schedule else (),
        playing=Playing(after_tokens=8192, cpu_seconds_per_token=0.002, session_bytes=10**6),
    )
    return replace(run, **changes)


def play_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time what a token costs after fewer tokens, and fewer of them."""
    for name, value in (("PLAYED_BEFORE_TOKENS", 128), ("STRETCHES", 2), ("STRETCH_TOKENS", 16)):
        monkeypatch.setattr(measure, name, value)


def table_below(report: str, heading: str) -> dict[str, list[str]]:
    """Cells by row of the first table after a heading."""
    lines = report.split(heading)[1].split("\n| --- |")[1].split("\n")[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {line[0]: line[1:] for line in cells}


def assert_drawn(picture: Path) -> None:
    """A picture of some size in many colours."""
    with Image.open(picture) as image:
        assert min(image.size) > 50
        assert len(set(image.convert("RGB").resize((200, 80)).tobytes())) > 20
