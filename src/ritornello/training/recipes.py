"""Recipes: everything that decides a training run, as small functions that return frozen settings.

``tiny`` is for tests, ``study`` for comparing schedules, ``small`` for a CPU in hours, ``base`` for an accelerator in
under half an hour, ``large`` for a GPU and MAESTRO. A new recipe is a function here, derived from its neighbour with
``dataclasses.replace``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ritornello.errors import RitornelloError
from ritornello.feed import Augmentation
from ritornello.horizons import HorizonSchedule
from ritornello.models.config import DSMRConfig, ModelConfig, PerceiverConfig, read_config

OPTIMISERS = ("muon", "adamw", "adam")
DECAYS = ("linear", "inverse_sqrt")
EQUAL = ("parameters", "layers")
MOTIF_NOTES = 16_384  # as many strikes as the longest performances have


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run. Raises RitornelloError where a number is outside its limits."""

    name: str
    model: ModelConfig
    lanes: int
    """pieces read side by side; lanes x segment tokens make one step"""
    steps: int
    """optimiser steps of the whole schedule, if no time budget is given"""
    groups: int = 1
    """of so many lanes each, which take turns: the next step reads other pieces. Not for crops: all are strangers"""
    by_title: bool = False
    """an epoch reads one performance of each title, not every performance. Not for crops"""
    piece_tokens: int | None = None
    """how far a piece is read in training; None for to its end. Validations read whole pieces"""
    growing: float = 0.0
    """first share of the run in which layers see more and more of their memories, a segment and doubling; validations
    on the way see as much. For models with horizons only"""
    legal: bool = True
    """mask illegal events before the softmax"""
    augmentation: Augmentation = field(default_factory=Augmentation)
    told: float = 0.0
    """share of segments that are told what they are (`codec.steering`); models get labels where it is above 0. For
    lanes only"""
    segmentation: str = "random_end"
    """how crops are chosen: random_start, random_end or sequential; lanes read whole pieces"""
    equal: str = "parameters"
    """between Perceivers of more looks and of fewer in a study: parameters (a look less is a layer more) or layers"""
    optimiser: str = "muon"
    """of the matrices of the layers: muon or adamw; AdamW has embedding, head and gains. Or adam, for all"""
    matrix_lr: float = 0.02
    """peak learning rate for the matrices of the layers"""
    other_lr: float = 0.008
    """peak learning rate for embedding, head and gains"""
    weight_decay: float = 0.01
    """decoupled, times the learning rate; Adam has none"""
    warmup_steps: int = 100
    """steps over which the learning rates rise from zero"""
    decay: str = "linear"
    """how the learning rates fall: linear, to zero at the end, or inverse_sqrt, with the root of the steps from the
    warm-up on (arXiv 1706.03762, section 5.3)"""
    decay_share: float = 0.6
    """last share of the run over which they fall linearly"""
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
            ("groups", 1, 1024),
            ("piece_tokens", 1, 10**9),
            ("matrix_lr", 0, 10),
            ("other_lr", 0, 10),
            ("weight_decay", 0, 10),
            ("warmup_steps", 0, 10**9),
            ("decay_share", 0, 1),
            ("growing", 0, 1),
            ("told", 0, 1),
            ("clip_norm", 1e-9, 1e9),
            ("validate_every_steps", 1, 10**9),
            ("validation_pieces", 1, 10**9),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RitornelloError(f"{name} is {value}; it must lie between {low} and {high}")
        for name, known in (("optimiser", OPTIMISERS), ("decay", DECAYS), ("equal", EQUAL)):
            if getattr(self, name) not in known:
                raise RitornelloError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}")
        if self.optimiser == "adam" and self.weight_decay:
            raise RitornelloError(f"weight_decay is {self.weight_decay}; with the optimiser adam it is 0")
        for name, neutral, kind, of_kind in (
            ("groups", 1, "that is trained on crops", self.model.crops),
            ("by_title", False, "that is trained on crops", self.model.crops),
            ("told", 0, "that is trained on crops", self.model.crops),
            ("growing", 0, "without horizons", self.model.schedule is None),
        ):
            if of_kind and getattr(self, name) != neutral:
                raise RitornelloError(f"{name} is {getattr(self, name)}; for a model {kind} it is {neutral}")

    def changed(
        self,
        *,
        schedule: str | None = None,
        legal: bool | None = None,
        lanes: int | None = None,
        piece_tokens: int | None = None,
    ) -> Recipe:
        """The recipe with what is given in place of its own.

        Raises:
            RitornelloError: for a schedule that does not fit the depth, or a number outside its limits.
        """
        given = {"lanes": lanes, "piece_tokens": piece_tokens, "legal": legal}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if schedule is not None:
            if self.model.schedule is None:
                raise RitornelloError(f"the recipe {self.name} is of a model without horizons; name one with them")
            parsed = HorizonSchedule.parse(schedule, layers=self.model.schedule.layers)
            changes["model"] = replace(self.model, schedule=parsed)
        return replace(self, **changes)

    @property
    def step_tokens(self) -> int:
        """Tokens that a step predicts, while no piece ends."""
        return self.lanes * self.model.step_tokens

    @property
    def streaming(self) -> DSMRConfig:
        """The sizes of a recipe of DSMR. Raises RitornelloError for one of another family."""
        if not isinstance(self.model, DSMRConfig):
            raise RitornelloError(f"the recipe {self.name} is of a model without horizons; name one of DSMR")
        return self.model

    def settings(self) -> dict[str, Any]:
        """The recipe as JSON-able values."""
        return {**asdict(self), "model": self.model.to_json(), "family": self.model.family}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe as they were once written; what came into the program since was as its default is."""
    family = settings.get("family") or ("dsmr" if "schedule" in settings["model"] else "perceivers")
    known = Recipe(name="", model=PerceiverConfig(), lanes=1, steps=1).settings()
    return known | settings | {"family": family, "model": read_config(family, settings["model"]).to_json()}


def tiny() -> Recipe:
    """Seconds on a CPU: tests and first steps."""
    schedule = HorizonSchedule.two_scale(layers=3, n_long=1, long=128, short=32)
    return Recipe(
        name="tiny",
        model=DSMRConfig(schedule, width=64, heads=2, mlp_width=128, segment_tokens=64),
        lanes=4,
        steps=200,
        warmup_steps=20,
        validate_every_steps=100,
        validation_pieces=2,
        checkpoint_every_s=60,
    )


def small() -> Recipe:
    """Some hours on two CPU cores: 6.8 M parameters."""
    schedule = HorizonSchedule.two_scale(layers=8, n_long=2, long=2048, short=256)
    return Recipe(
        name="small",
        model=DSMRConfig(schedule, segment_tokens=128, qk_bias=True, motif_notes=MOTIF_NOTES),
        lanes=16,
        groups=4,
        by_title=True,
        steps=12_000,
        augmentation=Augmentation(semitones=3, stretch=0.05),
        validation_pieces=8,
    )


def study() -> Recipe:
    """Minutes on a CPU: 0.9 M parameters, for comparing many schedules on one machine."""
    schedule = HorizonSchedule.two_scale(layers=8, n_long=2, long=1664, short=128)
    model = DSMRConfig(schedule, width=96, heads=3, mlp_width=256, segment_tokens=256, qk_bias=True)
    return replace(
        small(),
        name="study",
        model=model,
        lanes=4,
        groups=4,
        by_title=False,
        steps=1200,
        legal=False,
        augmentation=Augmentation(),
        validate_every_steps=300,
        validation_pieces=4,
    )


def base() -> Recipe:
    """An accelerator in under half an hour: 15.4 M parameters, the size of the released model."""
    schedule = HorizonSchedule.two_scale(layers=10, n_long=2, long=4096, short=512)
    model = replace(small().streaming, schedule=schedule, width=384, heads=6, mlp_width=768, dropout=0.1)
    return replace(
        small(),
        name="base",
        model=model,
        lanes=64,
        groups=1,
        steps=12_000,
        augmentation=Augmentation(semitones=6, stretch=0.1),
        validation_pieces=None,
    )


def large() -> Recipe:
    """A GPU and MAESTRO: 81.8 M parameters."""
    schedule = HorizonSchedule.two_scale(layers=16, n_long=4, long=8192, short=1024)
    sizes: dict[str, Any] = {"width": 640, "heads": 10, "mlp_width": 1792, "segment_tokens": 1024}
    model = replace(base().streaming, schedule=schedule, **sizes)
    return replace(base(), name="large", model=model, lanes=32, steps=60_000)


def perceivers_tiny() -> Recipe:
    """Seconds on a CPU: PerceiverS for tests and first steps."""
    model = PerceiverConfig(
        layers=2, width=64, heads=2, mlp_width=128, context_tokens=256, latents=64, scales=(None, 128), stride_tokens=32
    )
    return replace(tiny(), name="perceivers_tiny", model=model)


def perceivers_study() -> Recipe:
    """Minutes on a CPU: PerceiverS of the size and the work of ``study``, for comparing the steps that lead to it."""
    window: dict[str, Any] = {"context_tokens": 4096, "latents": 256, "scales": (None, 256), "stride_tokens": 128}
    model = PerceiverConfig(layers=6, width=96, heads=3, mlp_width=256, **window, qk_bias=True)
    return replace(study(), name="perceivers_study", model=model, groups=1)


def perceivers_small() -> Recipe:
    """An hour or two on two CPU cores: PerceiverS of the size of ``small``, 6.6 M parameters."""
    model = PerceiverConfig(
        layers=6, context_tokens=4096, latents=512, scales=(None, 512), stride_tokens=256, qk_bias=True
    )
    return replace(small(), name="perceivers_small", model=model, lanes=4, groups=1, by_title=False)


def perceivers_base() -> Recipe:
    """An accelerator in under half an hour: PerceiverS of the size of ``base``, 15.1 M parameters."""
    window: dict[str, Any] = {"context_tokens": 16_384, "latents": 1024, "scales": (None, 1024), "stride_tokens": 512}
    model = PerceiverConfig(layers=8, width=384, heads=6, mlp_width=768, **window, dropout=0.1, qk_bias=True)
    return replace(base(), name="perceivers_base", model=model, lanes=16, by_title=False)


def perceivers_paper() -> Recipe:
    """The paper's size and training (arXiv 2411.08307, section VI-A): a large GPU and days.

    The paper has "Adam" with "an initial learning rate set to 0.03125". That is 1024^-0.5, the factor of the
    inverse-square-root schedule with warm-up at this width (arXiv 1706.03762, section 5.3), and is read as such: **an
    inference**. So is the length of the warm-up, the 10,000 steps of Perceiver AR's program, after which the rate is
    0.03125 / 100, about the 0.0003 of that program (google-research/perceiver-ar, perceiver_ar/experiment.py). Neither
    lanes, steps and clipping nor the layers' insides (normalised queries and keys, a gated MLP) are the paper's, which
    does not tell them.
    """
    warmup_steps = 10_000
    peak_lr = (1024 * warmup_steps) ** -0.5
    window: dict[str, Any] = {"context_tokens": 32_768, "latents": 1024, "scales": (None, 1024), "stride_tokens": 512}
    model = PerceiverConfig(layers=24, width=1024, heads=16, mlp_width=2816, **window)
    return Recipe(
        name="perceivers_paper",
        model=model,
        lanes=8,
        steps=100_000,
        legal=False,
        equal="layers",
        optimiser="adam",
        matrix_lr=peak_lr,
        other_lr=peak_lr,
        weight_decay=0.0,
        warmup_steps=warmup_steps,
        decay="inverse_sqrt",
    )


_ALL = (
    *(tiny, study, small, base, large),
    *(perceivers_tiny, perceivers_study, perceivers_small, perceivers_base, perceivers_paper),
)
RECIPES: dict[str, Callable[[], Recipe]] = {recipe.__name__: recipe for recipe in _ALL}


def recipe_named(name: str) -> Recipe:
    """The recipe of a name. Raises RitornelloError, naming those there are."""
    if name not in RECIPES:
        raise RitornelloError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]()
