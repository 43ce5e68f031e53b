"""What a study is, which there are, and whose a folder is."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.studies import declared
from ritornello.studies.record import Conditions, to_json
from ritornello.studies.report import Column, Row, draw_nats_above
from ritornello.training.recipes import Recipe, flat, recipe_named, with_defaults

SETTINGS = "study.json"
Recipes = dict[str, Recipe]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One comparison: its rows, and how their runs are shown. Every file in ``studies/declared`` holds some."""

    name: str
    recipe: str
    """name of the recipe that its rows are made from, unless another is asked for"""
    rows: Callable[[Recipe, int], Recipes]
    """by name, from that recipe and the sum of the horizons of every row that has a limit to them"""
    horizons_of: Callable[[Recipe], Recipe] = lambda recipe: recipe
    """the recipe whose horizons those are"""
    of_memory: bool = True
    """whether its runs also tell what shorter horizons lose and what playing costs"""
    legal: bool = False
    """whether it is under the grammar, unless asked otherwise"""
    baseline: str
    """the row that others are measured against"""
    order: Callable[[Row], Any] = lambda row: row.nats_per_token.mean
    """what the rows of the report are sorted by"""
    heading: str
    introduction: str = "The best row first."
    columns: tuple[Column, ...]
    notes: Callable[[list[Row]], list[str]] = lambda rows: []
    """what was equal and what was not besides what every report says, a sentence or two each"""
    sections: Callable[[list[Row], Row | None], list[str]] = lambda rows, baseline: []
    """what follows in Markdown; the second argument is the baseline, where it is done"""
    draw: Callable[[list[Row], Row | None, Path], None] = draw_nats_above
    """the curves"""

    def conditions(
        self,
        corpus: Corpus,
        *,
        recipe: str | None = None,
        lanes: int | None = None,
        piece_tokens: int | None = None,
        **asked: Any,
    ) -> Conditions:
        """What one command asks for; of `Conditions` what is None is as the study, or its recipe, has it.

        Raises:
            RitornelloError: for an unknown recipe, or numbers outside their limits.
        """
        name = recipe or self.recipe
        settings = recipe_named(name).changed(lanes=lanes, piece_tokens=piece_tokens)
        own = {"study": self.name, "recipe": name, "recipe_settings": settings, **data_of(corpus)}
        own |= {"legal": self.legal, "steps": settings.steps}
        own["budget_tokens"] = self.horizons_of(recipe_named(name)).streaming.schedule.budget_tokens or 0
        return Conditions(**own | {field: value for field, value in asked.items() if value is not None})


def studies() -> dict[str, Study]:
    files = (import_module(f"{declared.__name__}.{file.name}") for file in pkgutil.iter_modules(declared.__path__))
    return {study.name: study for file in files for study in file.STUDIES}


def study_named(name: str) -> Study:
    """Raises RitornelloError for an unknown one, naming those there are."""
    known = studies()
    if name not in known:
        raise RitornelloError(f"unknown study {name!r}; there are {', '.join(known)}")
    return known[name]


def recipes_of(conditions: Conditions, rows: tuple[str, ...] = ()) -> Recipes:
    """The recipe of every row, or of those asked for, in the study's order. Raises RitornelloError for unknown rows."""
    recipe = replace(conditions.recipe_settings, legal=conditions.legal)
    known = study_named(conditions.study).rows(recipe, conditions.budget_tokens)
    for row in rows:
        if row not in known:
            raise RitornelloError(f"unknown row {row!r}; there are {'; '.join(known)}")
    return {name: recipe for name, recipe in known.items() if name in rows or not rows}


def steps_of(conditions: Conditions, recipe: Recipe) -> int:
    """Of a row's runs: as many tokens as the steps of the recipe that rows are made from."""
    return conditions.steps * conditions.recipe_settings.step_tokens // recipe.step_tokens


def data_of(corpus: Corpus) -> dict[str, Any]:
    """By what records know a corpus: its name, and its tokens by split."""
    tokens = {split: sum(record.tokens for record in corpus.pieces(split)) for split in ("train", "validation")}
    return {"corpus": corpus.name, "corpus_tokens": tokens}


def claim(folder: Path, settings: Conditions | Mapping[str, Any]) -> None:
    """Makes a folder that of a study, or of sets of pieces, with these settings, or makes sure that it is.

    Raises:
        RitornelloError: if it holds others, or cannot be written.
    """
    path, text = folder / SETTINGS, json.dumps(to_json(settings), indent=1) + "\n"
    if not path.exists():
        write_whole(path, text)
        return
    now = flat(json.loads(text))
    for name, before in flat(
        _read_settings(path)
    ).items():  # what has come into a study since has no value to differ from
        if before != now.get(name):
            raise RitornelloError(
                f"{folder}: holds a study with {name} = {before}, not {now.get(name)}; go on with its settings, or "
                "name another folder"
            )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise RitornelloError(f"{path}: is not the settings of a study; name another folder")
    if isinstance(recipe := settings.get("recipe_settings"), dict):
        settings["recipe_settings"] = with_defaults(recipe)
    return settings
