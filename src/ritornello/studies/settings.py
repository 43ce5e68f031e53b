"""What a study holds equal: recipe, steps, seeds, rows and the pieces that are read at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.studies.rows import STUDIES
from ritornello.training.precision import Precision
from ritornello.training.recipes import Recipe, recipe_named, with_defaults

SETTINGS = "study.json"


@dataclass(frozen=True)
class StudySettings:
    """Everything that decides a study's figures; kept beside them. Raises RitornelloError outside its limits."""

    study: str = "dsmr"
    """one of `STUDIES`"""
    recipe: str = "study"
    """that the rows are made from"""
    lanes: int | None = None
    """in place of the recipe's, in every row"""
    piece_tokens: int | None = None
    """how far pieces are read in training, in every row; None as the recipe has it"""
    steps: int = 1200
    """optimiser steps of each run; fewer, or more, where a row's steps have more tokens, or fewer"""
    seeds: int = 2
    """runs of each row, with seeds from 0"""
    budget_tokens: int = 4096
    """sum of the horizons of every row that has a limit"""
    rows: tuple[str, ...] = ()
    """names of rows; none given: all"""
    pieces: int = 16
    """validation pieces that are read whole at the end, the same for every run"""
    legal: bool = False
    """train and read under the grammar, unless a row says otherwise; the papers do not"""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 10**9), ("seeds", 1, 100), ("pieces", 1, 10**9)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RitornelloError(f"{name} is {value}; it must lie between {low:,} and {high:,}")
        known = self._rows()
        for row in self.rows:
            if row not in known:
                raise RitornelloError(f"unknown row {row!r}; there are {'; '.join(known)}")

    def recipes(self) -> dict[str, Recipe]:
        """The recipe of every row that is asked for, by name, in the study's order."""
        return {name: recipe for name, recipe in self._rows().items() if name in self.rows or not self.rows}

    def steps_of(self, recipe: Recipe) -> int:
        """Of a row's runs: as many tokens as ``steps`` steps of the recipe that rows are made from."""
        return self.steps * self._recipe().step_tokens // recipe.step_tokens

    def as_json(self, corpus: Corpus) -> dict[str, Any]:
        """What must be the same when a study goes on; rows and seeds may be added."""
        names = ("study", "recipe", "steps", "budget_tokens", "pieces", "legal", "precision")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        settings["recipe_settings"] = self._recipe().settings()
        tokens = {split: sum(r.tokens for r in corpus.pieces(split)) for split in ("train", "validation")}
        return {**settings, "corpus": corpus.name, "corpus_tokens": tokens}

    def _recipe(self) -> Recipe:
        return recipe_named(self.recipe).changed(lanes=self.lanes, piece_tokens=self.piece_tokens)

    def _rows(self) -> dict[str, Recipe]:
        return STUDIES[self.study].rows(self._recipe().changed(legal=self.legal), self.budget_tokens)


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Makes a folder that of a study with these settings, or makes sure that it is.

    Raises:
        RitornelloError: if it holds a study of other settings, or cannot be written.
    """
    path = out / SETTINGS
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        write_whole(path, json.dumps(settings, indent=1) + "\n")
        return
    before = _read(path)
    for key, was, now in _differences(before, settings):
        raise RitornelloError(
            f"{out}: holds a study with {key} = {was}, not {now}; go on with its settings, or name another folder"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise RitornelloError(f"{path}: is not the settings of a study; name another folder")
    if isinstance(recipe := settings.get("recipe_settings"), dict):
        settings["recipe_settings"] = with_defaults(recipe)
    return {"study": "dsmr", **settings}  # which had no name while it was the only one


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that is not what it was. One that came into a study since has no value to differ from."""
    for key, was in before.items():
        if isinstance(was, dict) and isinstance(now.get(key), dict):
            yield from ((f"{key}.{inner}", *values) for inner, *values in _differences(was, now[key]))
        elif was != now.get(key):
            yield key, was, now.get(key)
