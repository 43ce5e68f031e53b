"""Recipes: their limits, and how anybody changes one, by name or in a file; a resumed run has what it began with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import Run, assert_refused
from conftest import one_line
from short_runs import RECIPE

from ritornello.checkpoint import load_checkpoint
from ritornello.feed import Augmentation
from ritornello.horizons import HorizonSchedule
from ritornello.training.recipes import RECIPES, read_setting, recipe_named, recipe_of, small, tiny


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lanes", 0),
        ("piece_tokens", 0),
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


# ---- settings by name ----


@pytest.mark.parametrize(
    ("text", "part", "name", "value"),
    [
        ("lanes=8", "", "lanes", 8),
        ("matrix_lr = 1", "", "matrix_lr", 1.0),
        ("legal=false", "", "legal", False),
        ("optimiser=adamw", "", "optimiser", "adamw"),
        ("validation_pieces=none", "", "validation_pieces", None),
        ("model.width=512", "model", "width", 512),
        ("augmentation.stretch=0.5", "augmentation", "stretch", 0.5),
        ("model.schedule=uniform(64)", "model", "schedule", HorizonSchedule((64,) * 8)),
        ("model.schedule=2x64, unlimited", "model", "schedule", HorizonSchedule((64, 64, None))),
    ],
)
def test_a_setting_changes_its_field_and_no_other(text: str, part: str, name: str, value: Any) -> None:
    found, before = small().with_settings(dict([read_setting(text)])), small()
    changed = getattr(found, part) if part else found
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(value)
    back = replace(changed, **{name: getattr(getattr(before, part) if part else before, name)})
    assert (replace(found, **{part: back}) if part else back) == before


def test_a_list_of_scales_may_hold_none() -> None:
    changed = recipe_named("perceivers_tiny").with_settings(dict([read_setting('model.scales=["none", 64, 128]')]))
    assert changed.model.scales == (None, 64, 128)  # type: ignore[attr-defined]


REFUSED = [
    ("model.widht=512", "unknown setting 'model.widht'; did you mean model.width?"),
    ("lanse=8", "unknown setting 'lanse'; did you mean lanes?"),
    ("modle.width=8", "did you mean model.width?"),
    ("width=8", "did you mean model.width?"),
    ("model=8", "unknown setting 'model'"),
    ("family=dsmr", "unknown setting 'family'"),
    ("lanes=1.5", "lanes is 1.5; it must be a whole number"),
    ("lanes=true", "lanes is True; it must be a whole number"),
    ("lanes=0", "lanes is 0; it must lie between 1 and 65,536"),
    ("legal=1", "legal is 1; it must be true or false"),
    ("model.width=130", "width 130 must be a multiple of 2 x heads"),
    ("model.schedule=sometimes", "'sometimes'"),
    ("piece_tokens=all", "piece_tokens is 'all'; it must be a whole number or none"),
    ("lanes", "'lanes' is no setting; write name=value"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=lambda part: part)
def test_a_setting_that_does_not_fit_is_one_line_and_leaves_nothing(
    command: Run, corpus: Path, tmp_path: Path, text: str, words: str
) -> None:
    run = tmp_path / "run"
    assert_refused(command("train", "--data", corpus, "--out", run, "--recipe", "small", "--set", text), words)
    assert not run.exists()


# ---- in a file ----


def test_a_file_says_what_it_begins_from_and_what_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "wide.toml"
    path.write_text('from = "tiny"\nlanes = 2\n[model]\nwidth = 96\n[augmentation]\nsemitones = 2\n')
    model = replace(tiny().model, width=96)  # type: ignore[type-var]
    expected = replace(tiny(), name="wide", lanes=2, model=model, augmentation=Augmentation(semitones=2))
    assert recipe_named(str(path)) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"lanes = ", "no TOML"),
        (b"\xff", "no TOML"),
        (b"lanse = 3", "did you mean lanes?"),
        (b'from = "paella"', "'paella'"),
        (b'[model]\nwidth = "wide"', "model.width is 'wide'"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with one_line(path, words):
        recipe_named(str(path))


# ---- in a run ----


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_tells_its_recipe(monkeypatch: pytest.MonkeyPatch, name: str) -> None:

    written = json.loads(json.dumps(recipe_named(name).settings()))
    monkeypatch.setattr(
        "ritornello.training.recipes.load_checkpoint", lambda _: SimpleNamespace(run={"recipe": written})
    )
    assert recipe_of(Path("run")) == recipe_named(name)


def test_a_run_under_older_names_of_settings_is_the_same_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(recipe_named("small"), horizon_warmup_share=0.25, label_share=0.5)
    names = {"interleave": "groups", "balance_titles": "by_title", "horizon_warmup_share": "growing"}
    names["label_share"] = "told"
    written = {names.get(name, name): value for name, value in json.loads(json.dumps(recipe.settings())).items()}
    assert {"groups", "by_title", "growing", "told"} < set(written)
    monkeypatch.setattr(
        "ritornello.training.recipes.load_checkpoint", lambda _: SimpleNamespace(run={"recipe": written})
    )
    assert recipe_of(Path("run")) == recipe


def test_a_run_with_settings_is_resumed_as_it_was_and_not_otherwise(command: Run, corpus: Path, tmp_path: Path) -> None:
    run, always = tmp_path / "run", ("--data", corpus, "--out", tmp_path / "run", "--device", "cpu")
    begun = ("--recipe", "tiny", "--set", "model.width=32", "--set", "lanes=2", "--steps", 1)
    assert command("train", *always, *begun).code == 0
    written = load_checkpoint(run / "last").run["recipe"]
    assert (written["name"], written["lanes"], written["model"]["width"]) == ("tiny", 2, 32)
    assert command("train", *always, "--resume", "--steps", 2).code == 0
    assert load_checkpoint(run / "last").run["step"] == 2
    assert_refused(command("train", *always, "--resume", "--set", "lanes=3"), "lanes = 2, not 3")
    assert_refused(
        command("train", *always, "--resume", "--recipe", "tiny", "--set", "lanes=2"), "model.width = 32, not 64"
    )
