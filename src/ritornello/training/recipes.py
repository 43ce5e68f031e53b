"""Recipes: everything that decides a training run, as small functions that return frozen settings.

``tiny`` is for tests, ``study`` for comparing schedules, ``small`` for a CPU in hours, ``base`` for an accelerator in
under half an hour, ``large`` for a GPU and MAESTRO. A new recipe is a function here, derived from its neighbour with
``dataclasses.replace``; or a TOML file that names the recipe it begins from and says what it changes:

    from = "small"
    lanes = 32
    [model]
    width = 512
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from ritornello.checkpoint import load_checkpoint, renamed
from ritornello.errors import RitornelloError, check_limits
from ritornello.feed import Augmentation
from ritornello.horizons import HorizonSchedule
from ritornello.models.config import DSMRConfig, ModelConfig, PerceiverConfig, family_named, read_config

OPTIMISERS = ("muon", "adamw", "adam")
DECAYS = ("linear", "inverse_sqrt")
EQUAL = ("parameters", "layers")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
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
    interleave: int = 1
    """groups of so many lanes, which take turns: the next step reads other pieces. Not for crops: all are strangers"""
    balance_titles: bool = False
    """an epoch reads one performance of each title, not every performance. Not for crops"""
    piece_tokens: int | None = None
    """how far a piece is read in training; None for to its end. Validations read whole pieces"""
    horizon_warmup_share: float = 0.0
    """first share of the run in which layers see more and more of their memories, a segment and doubling; validations
    on the way see as much. For models with horizons only"""
    elastic_share: float = 0.0
    """share of steps in which layers see less of their memories, how much is drawn anew: one model plays well in
    memories of many sizes. For models with horizons only"""
    legal: bool = True
    """mask illegal events before the softmax"""
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_share: float = 0.0
    """share of segments that carry labels of what they are (`codec.steering`); models get labels where it is above 0.
    For lanes only"""
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
    label_lr: float = 0.03
    """peak learning rate for the vectors of labels: each is told in few segments, and begins at zero"""
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
        limits = {
            (1, 65536): ("lanes",),
            (1, 10**9): ("steps", "piece_tokens", "validate_every_steps", "validation_pieces"),
            (1, 1024): ("interleave",),
            (0, 10): ("matrix_lr", "other_lr", "label_lr", "weight_decay"),
            (0, 10**9): ("warmup_steps",),
            (0, 1): ("decay_share", "horizon_warmup_share", "elastic_share", "label_share"),
            (1e-9, 1e9): ("clip_norm",),
        }
        check_limits(**{name: (getattr(self, name), *ends) for ends, names in limits.items() for name in names})
        for name, known in (("optimiser", OPTIMISERS), ("decay", DECAYS), ("equal", EQUAL)):
            if getattr(self, name) not in known:
                raise RitornelloError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}")
        if self.optimiser == "adam" and self.weight_decay:
            raise RitornelloError(f"weight_decay is {self.weight_decay}; with the optimiser adam it is 0")
        for name, neutral, kind, of_kind in (
            ("interleave", 1, "that is trained on crops", self.model.crops),
            ("balance_titles", False, "that is trained on crops", self.model.crops),
            ("label_share", 0, "that is trained on crops", self.model.crops),
            ("horizon_warmup_share", 0, "without horizons", self.model.schedule is None),
            ("elastic_share", 0, "without horizons", self.model.schedule is None),
        ):
            if of_kind and getattr(self, name) != neutral:
                raise RitornelloError(f"{name} is {getattr(self, name)}; for a model {kind} it is {neutral}")

    def changed(self, *, schedule: str | None = None, **settings: Any) -> Recipe:
        """The recipe with what is given, and not None, in place of its own; the schedule keeps the depth.

        Raises:
            RitornelloError: for a schedule that does not fit the depth, or what `with_settings` refuses.
        """
        changes = {name: value for name, value in settings.items() if value is not None}
        if schedule is not None:
            if self.model.schedule is None:
                raise RitornelloError(f"the recipe {self.name} is of a model without horizons; name one with them")
            changes["model.schedule"] = HorizonSchedule.parse(schedule, layers=self.model.schedule.layers)
        return self.with_settings(changes)

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe with settings by name in place of its own, such as ``{"lanes": 8, "model.width": 512}``.

        They may be nested, as in TOML. A schedule may be its text: a list has its own depth, a constructor the
        recipe's. "none" stands for None.

        Raises:
            RitornelloError: for a name that does not exist, with the nearest that does, or a value that does not fit.
        """
        wanted, known = flat(settings), flat(self.settings()).keys() - {"family"}
        for name in wanted.keys() - known:
            (nearest,) = get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise RitornelloError(f"unknown setting {name!r}; did you mean {nearest}?")
        parts = {name: _changes(getattr(self, name), wanted, f"{name}.") for name in ("model", "augmentation")}
        changed = {name: replace(getattr(self, name), **changes) for name, changes in parts.items()}
        return replace(self, **_changes(self, wanted, ""), **changed)

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
        return {**asdict(self), "model": self.model.to_json(), "family": self.model.family}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a recipe as they were once written; what came into the program since was as its default is."""
    settings = {renamed(name): value for name, value in settings.items()}
    family = settings.get("family") or ("dsmr" if "schedule" in settings["model"] else "perceivers")
    known = Recipe(name="", model=PerceiverConfig(), lanes=1, steps=1).settings()
    return known | settings | {"family": family, "model": read_config(family, settings["model"]).to_json()}


def recipe_of(run: Path) -> Recipe:
    """The recipe of a run that can be resumed, as it is written there. Raises RitornelloError where there is none."""
    values = with_defaults(load_checkpoint(run / "last").run["recipe"])
    parts: dict[str, Any] = {
        "model": read_config(values["family"], values["model"]),
        "augmentation": Augmentation(**values["augmentation"]),
    }
    return Recipe(**{f.name: parts.get(f.name, values[f.name]) for f in fields(Recipe)})


def read_setting(text: str) -> tuple[str, Any]:
    """``model.width=512`` -> a name and a value: as TOML writes it, or else the bare text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise RitornelloError(f"{text!r} is no setting; write name=value, such as model.width=512")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file: ``from``, the name of a recipe, and the settings that it changes.

    Raises:
        RitornelloError: naming the file, if it cannot be read, is no TOML, or does not fit.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        begun = str(settings.pop("from", "small"))
        return recipe_named(begun).with_settings({"name": path.stem, **settings})
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror}); name a recipe, or a TOML file") from None
    except ValueError as error:
        raise RitornelloError(f"{path}: no TOML ({' '.join(str(error).split())}); mend it") from None
    except RitornelloError as error:
        raise RitornelloError(f"{path}: {error}") from None


def flat(settings: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        named |= flat(value, f"{place}{name}.") if isinstance(value, Mapping) else {f"{place}{name}": value}
    return named


def _changes(part: Any, settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Those of the settings that are fields of a part of the recipe, each as its field takes it."""
    types, paths = get_type_hints(type(part)), {f.name: place + f.name for f in fields(part)}
    return {
        field: _checked(settings[name], types[field], getattr(part, field), name)
        for field, name in paths.items()
        if name in settings
    }


def _checked(value: Any, kind: Any, current: Any, name: str) -> Any:
    if isinstance(current, HorizonSchedule):
        return value if isinstance(value, HorizonSchedule) else _schedule(str(value), current.layers)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise RitornelloError(f"{name} is {value!r}; it must be a list")
        return tuple(_checked(item, get_args(kind)[0], None, f"each of {name}") for item in value)
    allowed = get_args(kind) or (kind,)
    value = None if value == "none" and type(None) in allowed else value
    value = float(value) if type(value) is int and float in allowed else value
    if type(value) not in allowed:
        raise RitornelloError(f"{name} is {value!r}; it must be {' or '.join(WORDS[t] for t in allowed)}")
    return value


def _schedule(text: str, layers: int) -> HorizonSchedule:
    try:
        return HorizonSchedule.parse(text)
    except RitornelloError:  # it does not say how many layers there are
        return HorizonSchedule.parse(text, layers=layers)


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
        model=DSMRConfig(schedule, segment_tokens=128, qk_bias=True, motif_notes=MOTIF_NOTES, recalls=True),
        lanes=16,
        interleave=4,
        balance_titles=True,
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
        interleave=4,
        balance_titles=False,
        steps=1200,
        legal=False,
        augmentation=Augmentation(),
        validate_every_steps=300,
        validation_pieces=4,
    )


def tune() -> Recipe:
    """Some minutes on a CPU: a model of DSMR fine-tuned on pieces of one's own, at a twentieth of ``small``'s rates."""
    return replace(
        small(),
        name="tune",
        interleave=1,
        balance_titles=False,
        steps=400,
        matrix_lr=0.001,
        other_lr=0.0004,
        warmup_steps=20,
        validate_every_steps=50,
    )


def base() -> Recipe:
    """An accelerator in ten minutes: 15.4 M parameters. The released model was trained with it."""
    schedule = HorizonSchedule.two_scale(layers=10, n_long=2, long=4096, short=512)
    sizes: dict[str, Any] = {"width": 384, "heads": 6, "mlp_width": 768, "segment_tokens": 512}
    model = replace(small().streaming, schedule=schedule, **sizes, dropout=0.2)
    return replace(
        small(),
        name="base",
        model=model,
        lanes=64,
        interleave=1,
        steps=12_000,
        weight_decay=0.04,
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
    return replace(study(), name="perceivers_study", model=model, interleave=1)


def perceivers_small() -> Recipe:
    """An hour or two on two CPU cores: PerceiverS of the size of ``small``, 6.6 M parameters."""
    model = PerceiverConfig(
        layers=6, context_tokens=4096, latents=512, scales=(None, 512), stride_tokens=256, qk_bias=True
    )
    return replace(small(), name="perceivers_small", model=model, lanes=4, interleave=1, balance_titles=False)


def perceivers_base() -> Recipe:
    """An accelerator in under half an hour: PerceiverS of the size of ``base``, 15.1 M parameters."""
    window: dict[str, Any] = {"context_tokens": 16_384, "latents": 1024, "scales": (None, 1024), "stride_tokens": 512}
    model = PerceiverConfig(layers=8, width=384, heads=6, mlp_width=768, **window, dropout=0.1, qk_bias=True)
    return replace(base(), name="perceivers_base", model=model, lanes=16, balance_titles=False)


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


_OF_DSMR = (tiny, study, small, tune, base, large)
_OF_PERCEIVERS = (perceivers_tiny, perceivers_study, perceivers_small, perceivers_base, perceivers_paper)
RECIPES: dict[str, Callable[[], Recipe]] = {recipe.__name__: recipe for recipe in (*_OF_DSMR, *_OF_PERCEIVERS)}


def recipe_named(name: str) -> Recipe:
    """The recipe of a name, or in a file ``*.toml``; of a family's name ``small``'s, with the family's default sizes.

    Raises:
        RitornelloError: for any other, naming the recipes there are.
    """
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name in RECIPES:
        return RECIPES[name]()
    try:
        model = family_named(name)()
    except (RitornelloError, TypeError):
        raise RitornelloError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}, or a TOML file's") from None
    return replace(small(), name=name, model=model, interleave=1, balance_titles=False)
