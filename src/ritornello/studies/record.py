"""The record of one run: what a study keeps of it, written and read as JSON here and nowhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ritornello.errors import RitornelloError, check_limits
from ritornello.files import write_whole
from ritornello.models.config import ModelConfig, read_config
from ritornello.recall import Recall
from ritornello.training.recipes import Recipe, with_defaults

BEGINNING_TOKENS = 1024  # of every validation piece: what the PerceiverS paper's first experiment is about
BLOCK_TOKENS = 256  # each piece's likelihood is kept in blocks of this length
Part = Literal["by_piece", "beginnings"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What is equal in all runs of a study. Raises RitornelloError outside its limits."""

    study: str
    recipe: str
    steps: int
    """of the recipe that rows are made from: fewer, or more, where a row's steps have more tokens, or fewer"""
    budget_tokens: int
    """sum of the horizons of every row that has a limit"""
    pieces: int = 16
    """validation pieces that are read whole at the end"""
    legal: bool = False
    """train and read under the grammar, unless a row says otherwise"""
    precision: str = "fp32"
    recipe_settings: Recipe
    """that rows are made from"""
    corpus: str
    corpus_tokens: dict[str, int]
    """by split"""

    def __post_init__(self) -> None:
        check_limits(steps=(self.steps, 1, 10**9), pieces=(self.pieces, 1, 10**9))


@dataclass(frozen=True, kw_only=True)
class Machine:
    device: str
    threads: int
    torch: str


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """Training loss since the line before, or a validation, in nats/token."""

    tokens: int
    seconds: float
    nats: float | None = None
    validation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    tokens: int
    seconds: float
    best_step: int
    tokens_per_s: float | None = None
    """None of a run too short to tell"""
    idle_bytes: int
    """of the process before"""
    peak_bytes: int
    log: tuple[LogLine, ...]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Nats/token of the tokens between two limits; None: open, or no tokens."""

    from_: int | None = None
    to: int | None = None
    tokens: int
    nats_per_token: float | None = None


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """`Evaluation.figures` of whole validation pieces."""

    kind: str
    pieces: int
    tokens: int
    nats_per_token: float
    perplexity: float
    nats_per_note: float
    nats_per_second: float
    by_position: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class PieceNats:
    """Likelihood of one piece, in all and in blocks of `BLOCK_TOKENS`."""

    composition: str = ""
    """which other pieces may share"""
    nats: float
    tokens: int
    blocks: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Material:
    """Likelihood of what returns in a piece and of what does not (see `measure.ages`)."""

    passage_notes: int
    apart_tokens: int
    returning: Bin
    new: Bin
    by_age: tuple[Bin, ...] = ()
    """first what never returned, without limits"""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Likelihood where no layer remembers more than ``most_tokens``."""

    most_tokens: int
    budget_tokens: int
    nats_per_token: float


@dataclass(frozen=True, kw_only=True)
class Playing:
    """What playing costs deep in a piece."""

    after_tokens: int
    cpu_seconds_per_token: float
    session_bytes: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what it was, and what came of it."""

    row: str
    seed: int
    settings: Conditions
    recipe: Recipe
    """the row's"""
    model: ModelConfig
    parameters: int
    machine: Machine
    training: Training
    evaluation: Likelihood
    by_piece: tuple[PieceNats, ...]
    beginnings: tuple[PieceNats, ...] = ()
    """of all validation pieces, `BEGINNING_TOKENS` of each"""
    material: Material
    repeats: tuple[Recall, ...] = ()
    """the repeat test; empty where no piece is long enough"""
    cuts: tuple[Cut, ...] = ()
    playing: Playing | None = None

    def write(self, out: Path) -> None:
        """Into the folder of the study, whole or not at all."""
        write_whole(record_path(out, self.row, self.seed), json.dumps(to_json(self), indent=1) + "\n")


def record_path(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / f"{run_name(row, seed)}.json"


def training_path(out: Path, row: str, seed: int) -> Path:
    return out / "training" / run_name(row, seed)


def run_name(row: str, seed: int) -> str:
    """A row and a seed as the name of a file or folder."""
    words = "".join(c if c.isalnum() else "-" for c in row.lower()).replace("--", "-")
    return f"{words}-seed-{seed}"


def read_records(out: Path, study: str) -> list[Record]:
    """The records of every finished run.

    Raises:
        RitornelloError: where there are none, a file is no record, or they are of another study.
    """
    records = []
    for path in sorted((out / "runs").glob("*-seed-*.json")):
        try:
            record: Record = from_json(Record, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError, AttributeError, RitornelloError) as error:
            raise RitornelloError(
                f"{path}: is not the record of a run ({error}); remove it, and 'ritornello study run' makes it"
            ) from None
        if record.settings.study != study:
            raise RitornelloError(
                f"{out}: holds runs of the study {record.settings.study}, not of {study}; name that, or another folder"
            )
        records.append(record)
    if not records:
        raise RitornelloError(f"{out}: no run of a study is finished here; start one with 'ritornello study run'")
    return records


def to_json(value: Any) -> Any:
    """A record, or a part of one, as JSON-able values. None is left out; ``from_`` is written as ``from``."""
    if isinstance(value, Recipe):
        return value.settings()
    if isinstance(value, ModelConfig):
        return {"family": value.family, **value.to_json()}
    if is_dataclass(value):
        parts = ((field.name.rstrip("_"), getattr(value, field.name)) for field in fields(value))
        return {name: to_json(part) for name, part in parts if part is not None}
    return [to_json(part) for part in value] if isinstance(value, tuple) else value


def from_json(kind: Any, value: Any) -> Any:
    """What `to_json` was given, by the type of its field; names that the type does not know are passed over."""
    if kind is Recipe:
        value = with_defaults(value)
        value["model"] = {"family": value["family"], **value["model"]}
    if kind is ModelConfig:
        return read_config(value["family"], {name: size for name, size in value.items() if name != "family"})
    if isinstance(kind, type) and is_dataclass(kind):
        types = get_type_hints(kind)
        names = ((field.name, field.name.rstrip("_")) for field in fields(kind))
        return kind(**{field: from_json(types[field], value[name]) for field, name in names if name in value})
    if get_origin(kind) is tuple:
        return tuple(from_json(get_args(kind)[0], part) for part in value)
    parts = [part for part in get_args(kind) if is_dataclass(part)]
    return from_json(parts[0], value) if parts and value is not None else value
