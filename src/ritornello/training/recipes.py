"""Recipes: everything that decides a training run, as small functions that return frozen settings.

``tiny`` is for tests, ``small`` for a CPU in hours, ``base`` for an accelerator in under half an hour, ``large`` for a
GPU and MAESTRO. A new recipe is a function here, derived from its neighbour with ``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ritornello.errors import RitornelloError
from ritornello.feed import Augmentation
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMRConfig


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run. Raises RitornelloError where a number is outside its limits."""

    name: str
    model: DSMRConfig
    lanes: int
    """pieces read side by side; lanes x segment tokens make one step"""
    steps: int
    """optimiser steps of the whole schedule, if no time budget is given"""
    legal: bool = True
    """mask illegal events before the softmax"""
    augmentation: Augmentation = field(default_factory=Augmentation)
    matrix_lr: float = 0.02
    """peak learning rate of Muon, for the matrices of the layers"""
    other_lr: float = 0.008
    """peak learning rate of AdamW, for embedding, head and gains"""
    weight_decay: float = 0.01
    """decoupled, times the learning rate"""
    warmup_steps: int = 100
    """steps over which the learning rates rise from zero"""
    decay_share: float = 0.6
    """last share of the run over which the learning rates fall linearly to zero"""
    clip_norm: float = 1.0
    """greatest norm of the whole gradient"""
    validate_every_steps: int = 500
    """steps between validations on whole pieces"""
    validation_pieces: int | None = None
    """how many pieces of the validation split, the same in every run; None for all"""
    checkpoint_every_s: float = 300.0
    """seconds between saves of the last checkpoint"""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("lanes", 1, 65536),
            ("steps", 1, 10**9),
            ("matrix_lr", 0, 10),
            ("other_lr", 0, 10),
            ("weight_decay", 0, 10),
            ("warmup_steps", 0, 10**9),
            ("decay_share", 0, 1),
            ("clip_norm", 1e-9, 1e9),
            ("validate_every_steps", 1, 10**9),
            ("validation_pieces", 1, 10**9),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RitornelloError(f"{name} is {value}; it must lie between {low} and {high}")

    def changed(self, *, schedule: str | None = None, legal: bool | None = None) -> Recipe:
        """The recipe with what is given in place of its own.

        Raises:
            RitornelloError: for a schedule that does not fit the depth.
        """
        recipe = self
        if schedule is not None:
            parsed = HorizonSchedule.parse(schedule, layers=self.model.schedule.layers)
            recipe = replace(recipe, model=replace(recipe.model, schedule=parsed))
        return recipe if legal is None else replace(recipe, legal=legal)

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON-able values."""
        settings = asdict(self)
        settings["model"]["schedule"] = str(self.model.schedule)
        return settings


def tiny() -> Recipe:
    """Seconds on a CPU: tests and first steps."""
    return Recipe(
        name="tiny",
        model=DSMRConfig(
            HorizonSchedule.two_scale(layers=3, n_long=1, long=128, short=32),
            width=64,
            heads=2,
            mlp_width=128,
            segment_tokens=64,
        ),
        lanes=4,
        steps=200,
        warmup_steps=20,
        validate_every_steps=100,
        validation_pieces=2,
        checkpoint_every_s=60,
    )


def small() -> Recipe:
    """An hour or two on two CPU cores: 6.6 M parameters."""
    return Recipe(
        name="small",
        model=DSMRConfig(HorizonSchedule.two_scale(layers=8, n_long=2, long=2048, short=256), segment_tokens=256),
        lanes=8,
        steps=6000,
        augmentation=Augmentation(semitones=3, stretch=0.05),
        validation_pieces=8,
    )


def base() -> Recipe:
    """An accelerator in under half an hour: 15.1 M parameters, the size of the released model."""
    model = DSMRConfig(
        HorizonSchedule.two_scale(layers=10, n_long=2, long=4096, short=512),
        width=384,
        heads=6,
        mlp_width=768,
        dropout=0.1,
    )
    return replace(
        small(),
        name="base",
        model=model,
        lanes=32,
        steps=12_000,
        augmentation=Augmentation(semitones=6, stretch=0.1),
        validation_pieces=None,
    )


def large() -> Recipe:
    """A GPU and MAESTRO: 81.8 M parameters."""
    model = DSMRConfig(
        HorizonSchedule.two_scale(layers=16, n_long=4, long=8192, short=1024),
        width=640,
        heads=10,
        mlp_width=1792,
        segment_tokens=1024,
        dropout=0.1,
    )
    return replace(base(), name="large", model=model, steps=60_000)


RECIPES: dict[str, Callable[[], Recipe]] = {f.__name__: f for f in (tiny, small, base, large)}


def recipe_named(name: str) -> Recipe:
    """The recipe of a name. Raises RitornelloError, naming those there are."""
    if name not in RECIPES:
        raise RitornelloError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
