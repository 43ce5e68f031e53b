"""Sizes of the model families as plain data, and the registry that they join. torch is loaded when a model is.

Whatever follows from sizes alone is derived here and nowhere else: bytes of states and memories, matrices, FLOPs, and
what a family is fed in training.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ritornello.codec import N_EVENTS, N_HINTS, MotifMemory
from ritornello.codec.motifs import memory_bytes
from ritornello.errors import RitornelloError, counted, needing
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.costs import key_flops, mean_keys_seen
from ritornello.horizons.schedule import key_value_bytes

if TYPE_CHECKING:
    from typing import Self

MAX_SIZE = 1_000_000
EPSILON = 1e-6  # added to the mean square in an RMS norm
ROTARY_BASE = 10_000.0  # of the wavelengths of rotary positions


class CropSizes(NamedTuple):
    """Tokens that a crop reads at most, and how many of them, the last, it predicts."""

    context_tokens: int
    latents: int


FAMILIES: dict[str, type[ModelConfig]] = {}
"""by name, those that are loaded: see `family_named`"""


class ModelConfig:
    """Sizes of one model: a family's are a frozen dataclass made of this, with a unit beneath each field.

    A family that says no more than its fields is trained on lanes, played by torch alone, and remembers what does not
    grow. One in a file of its own, ``models/NAME.py``, needs no other: it is found there by its name.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    family: ClassVar[str]
    """its name"""
    model: ClassVar[str]
    """its class, a `models.protocol.Model`, as ``module:name``: loaded when one is built"""
    exporter: ClassVar[str | None] = None
    """what makes its ONNX graph (see `engines.graph.build_graph`), as ``module:name``; None: torch alone plays it"""
    later: ClassVar[tuple[str, ...]] = ()
    """fields that have come since the family's first, which older JSON does not have"""
    schedule: HorizonSchedule | None = None
    """memory horizons, one per layer; None in families without"""
    motif_notes: int = 0
    """strikes in the motif memory (`codec.motifs`) whose hints the model reads with each token; 0 for none"""
    recalls: bool = False
    """whether the motif memory tells when a passage is called back (`codec.motifs.MotifMemory.call`)"""
    labels: tuple[str, ...] = ()
    """what the model may be told of the music (`codec.steering`), in the order of their vectors"""

    # Fields of every family; a value here would be their default.
    width: int
    """C, channels of the residual stream"""
    segment_tokens: int
    """S, the unit of recurrence; what a lane reads in a training step"""

    def __init_subclass__(cls) -> None:
        if "family" in vars(cls):
            FAMILIES[cls.family] = cls

    @property
    def not_exportable(self) -> str | None:
        """Why it has no ONNX graph; None where it has one."""
        return (
            None
            if self.exporter
            else f"there is no ONNX graph of the family {self.family}; play it with --engine torch"
        )

    @property
    def crops(self) -> CropSizes | None:
        """Of what training reads; None for lanes of consecutive segments."""
        return None

    @property
    def step_tokens(self) -> int:
        """Tokens that a lane, or a crop, predicts in a training step."""
        return self.crops.latents if self.crops else self.segment_tokens

    @property
    def memory_tokens(self) -> int:
        """Tokens that fill the memories; unlimited ones are taken to hold a segment."""
        return self.segment_tokens

    @property
    def state_bytes(self) -> int | None:
        """Of one performance in float32, allocated before its first token; None where it grows or is not known."""
        return None

    def within(self, memory_bytes: int) -> Self:
        """These sizes with shorter memories, whose `state_bytes` are no more than so many.

        Raises:
            RitornelloError: for a family whose memories cannot be cut, or too few bytes.
        """
        raise RitornelloError(f"memories of the family {self.family} cannot be cut to a size; leave --memory out")

    def lane_bytes(self, tokens: int, *, bytes_per_number: int) -> int:
        """Of what grows in a lane's state after so many tokens."""
        return 0

    @property
    def hint_ids(self) -> int:
        """How many ids hints have; 0 for a model that reads none."""
        return (N_HINTS + self.recalls) * bool(self.motif_notes)

    def motif_memory(self) -> MotifMemory | None:
        """An empty one for a stream that the model reads; None for a model without."""
        return MotifMemory(self.motif_notes, may_call=self.recalls) if self.motif_notes else None

    @property
    def remembers(self) -> str:
        """What, in a few words, the motif memory left out."""
        return "a state of fixed size"

    def describe(self) -> str:
        """What a model of these sizes remembers, in a few words."""
        return self.remembers + (
            f", motif memory of {counted(self.motif_notes, 'strikes')}" if self.motif_notes else ""
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values; `from_json` gives the same sizes back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return values | plain | ({"schedule": str(self.schedule)} if self.schedule else {})

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """Sizes from JSON, which may lack what came `later`. Raises RitornelloError, naming what does not fit."""
        known = {f.name for f in fields(cls)}
        wrong = [f"no {name}" for name in sorted(known - set(cls.later) - set(config))]
        wrong += [f"an unknown {name}" for name in sorted(set(config) - known)]
        try:
            if wrong:
                raise TypeError(f"it has {', '.join(wrong)}")
            parsed = {"schedule": HorizonSchedule.parse(str(config["schedule"]))} if "schedule" in config else {}
            return cls(**{**config, **parsed})
        except TypeError as error:
            raise RitornelloError(f"the config does not fit the family {cls.family}: {error}") from None

    def check_whole(self, *names: str, low: int = 1) -> None:
        """Raises RitornelloError for fields that are no whole numbers from ``low`` to a million."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= MAX_SIZE:
                raise RitornelloError(f"{name} is {value}; it must be a whole number between {low} and {MAX_SIZE:,}")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(ModelConfig):
    """Sizes of a model made of ``models.blocks``."""

    later: ClassVar[tuple[str, ...]] = ("qk_bias", "motif_notes", "recalls", "labels")

    width: int = 256
    """C, channels of the residual stream"""
    heads: int = 4
    """H; the head size C / H must be even"""
    mlp_width: int = 704
    """channels inside the gated MLPs"""
    dropout: float = 0.0
    """share of each branch's output that training drops"""
    qk_bias: bool = False
    """queries and keys have learned biases, which start as a preference for what is near"""
    motif_notes: int = 0
    recalls: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        self.check_whole("width", "heads", "mlp_width")
        self.check_whole("motif_notes", low=0)
        if self.recalls and not self.motif_notes:
            raise RitornelloError("recalls is true, and motif_notes 0; a passage is called back from a motif memory")
        if self.width % (2 * self.heads):
            raise RitornelloError(f"width {self.width} must be a multiple of 2 x heads ({self.heads}); change either")
        if not 0 <= self.dropout < 1:
            raise RitornelloError(f"dropout is {self.dropout}; it must lie between 0 and 1, below 1")

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def key_value_bytes(self, slots: int, bytes_per_number: int = 4) -> int:
        """Of so many slots' keys and values."""
        return key_value_bytes(slots, width=self.width, bytes_per_number=bytes_per_number)


@dataclass(frozen=True)
class DSMRConfig(AttentionConfig):
    """Sizes of a DSMR. Raises RitornelloError where they do not fit together."""

    family: ClassVar[str] = "dsmr"
    model: ClassVar[str] = "ritornello.models.dsmr:DSMR"
    exporter: ClassVar[str | None] = "ritornello.engines.graph:build_graph"
    schedule: HorizonSchedule = field()
    """memory horizons, one per layer: their number is the depth"""
    segment_tokens: int = 512
    """S, the unit of recurrence, in tokens"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_whole("segment_tokens")

    @property
    def horizons(self) -> tuple[int, ...]:
        """H_l of every layer that has a limit, in tokens."""
        return tuple(h for h in self.schedule.horizons if h is not None)

    @property
    def not_exportable(self) -> str | None:
        why = "an unlimited layer grows with the piece, so its memory cannot be fixed; play it with --engine torch"
        return f"{why}, or train it with a horizon in every layer" if None in self.schedule.horizons else None

    @property
    def memory_tokens(self) -> int:
        return self.room(max(h or 0 for h in self.schedule.horizons))

    @property
    def remembers(self) -> str:
        return f"horizons {self.schedule}"

    @property
    def state_bytes(self) -> int | None:
        if None in self.schedule.horizons:
            return None
        return self.key_value_bytes(sum(map(self.room, self.horizons))) + memory_bytes(self.motif_notes)

    def within(self, memory_bytes: int) -> Self:
        """All horizons limited to the most that fits."""

        def state_bytes(most: int) -> int:
            return replace(self, schedule=self.schedule.limited(most)).state_bytes or 0

        if memory_bytes < (least := state_bytes(0)):
            megabytes = f"{memory_bytes / 1e6:,.1f} MB of memory are too few"
            raise RitornelloError(f"{megabytes}: without any horizon this model takes {least / 1e6:,.1f} MB")
        longest = max(MAX_SIZE if h is None else h for h in self.schedule.horizons)
        most = bisect_right(range(longest + 1), memory_bytes, key=state_bytes) - 1
        return self if most == longest else replace(self, schedule=self.schedule.limited(most))

    def room(self, horizon: int) -> int:
        """Slots that a layer has use for: its horizon and the open segment."""
        return horizon + self.segment_tokens

    def slots(self, position: Any, horizon: int | None, *, available: int) -> int:
        """Slots that a layer keeps for queries at ``position`` and later, of one lane or, in an array, of many.

        No more than the keys that are ``available``.
        """
        if horizon is None:
            return min(int(np.max(position)), available)
        phase = position % self.segment_tokens
        needed = phase + horizon if self.schedule.rule == "segment" else np.maximum(phase, horizon)
        return min(int(np.max(np.minimum(position, needed))), available)

    def lane_bytes(self, tokens: int, *, bytes_per_number: int) -> int:
        read = -(-tokens // self.segment_tokens) * self.segment_tokens
        return self.key_value_bytes(
            sum(self.slots(read, h, available=read) for h in self.schedule.horizons), bytes_per_number
        )

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every matrix, by the name of its module."""
        width, inner, layers = self.width, self.mlp_width, range(self.schedule.layers)
        of_a_layer = {"qkv": (width, 3 * width), "out": (width, width)}
        of_a_layer |= {"gate_up": (width, 2 * inner), "down": (inner, width)}
        shapes = {f"blocks.{n}.{name}": shape for n in layers for name, shape in of_a_layer.items()}
        return shapes | {"head": (width, N_EVENTS)}

    def held_bytes(self, piece_tokens: int, *, bytes_per_number: int) -> int:
        """Of a lane's keys and values at a segment's start; unlimited layers hold so many tokens."""
        return self.key_value_bytes(self.schedule.after(piece_tokens).budget_tokens or 0, bytes_per_number)

    def training_flops_per_token(self, piece_tokens: int) -> float:
        """The FLOPs that training on a token takes: of forward and backward pass, without the optimisers.

        6 for each weight of a matrix, and for each key seen three times the forward pass's (arXiv 2204.02311, appendix
        B). Remembered keys are detached and take no gradient, which is half of the backward pass: they count twice.
        The mean is over a segment with full memories or, where one is unlimited, over a piece of ``piece_tokens``.
        """
        schedule, weights = self.schedule, sum(inputs * outputs for inputs, outputs in self.matrices.values())
        how: dict[str, Any] = {"rule": schedule.rule, "segment_tokens": self.segment_tokens}
        how["piece_tokens"] = piece_tokens if None in schedule.horizons else None
        seen = sum(mean_keys_seen(horizon, **how) for horizon in schedule.horizons)
        own = schedule.layers * (self.segment_tokens + 1) / 2
        return 6 * weights + key_flops(2 * (seen - own) + 3 * own, width=self.width)


@dataclass(frozen=True)
class PerceiverConfig(AttentionConfig):
    """Sizes of a PerceiverS; with one scale of None it is a Perceiver AR. Raises RitornelloError for a misfit."""

    family: ClassVar[str] = "perceivers"
    model: ClassVar[str] = "ritornello.models.perceivers:Perceiver"

    layers: int = 8
    """self-attention layers over the latents"""
    context_tokens: int = 8192
    """N, the most tokens that a latent can look at"""
    latents: int = 512
    """Q, the most tokens that are processed in depth together"""
    scales: tuple[int | None, ...] = (None, 1024)
    """cross-attentions in cascade: None sees the whole context, a number only the last so many tokens of a window"""
    stride_tokens: int = 256
    """tokens by which a full window of latents moves on"""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scales", tuple(self.scales))
        self.check_whole("layers", "context_tokens", "latents", "stride_tokens")
        if self.latents > self.context_tokens:
            raise RitornelloError(
                f"{self.latents} latents exceed the context of {self.context_tokens} tokens; take fewer"
            )
        if self.latents % self.stride_tokens:
            raise RitornelloError(f"stride_tokens {self.stride_tokens} must divide the {self.latents} latents")
        if not self.scales:
            raise RitornelloError("scales is empty; give at least one, such as None for the whole context")
        for scale in self.scales:
            if scale is not None and not (isinstance(scale, int) and self.latents <= scale <= self.context_tokens):
                raise RitornelloError(
                    f"a scale of {scale} tokens must be a whole number between the {self.latents} latents and the "
                    f"context of {self.context_tokens} tokens"
                )

    @property
    def segment_tokens(self) -> int:  # type: ignore[override]
        """The stride: windows move where a position is a multiple of it."""
        return self.stride_tokens

    @property
    def not_exportable(self) -> str:
        why = "a Perceiver computes its window's latents anew at every stride, which is no step of fixed cost"
        return f"{why}; play it with --engine torch"

    @property
    def crops(self) -> CropSizes:
        return CropSizes(self.context_tokens, self.latents)

    @property
    def before_stride(self) -> int:
        """The latents that a window keeps when it moves, in tokens: Q less the stride."""
        return self.latents - self.stride_tokens

    @property
    def reaches(self) -> tuple[int, ...]:
        """Per cross-attention, how many tokens before a window's last stride it sees: the horizons of its keys."""
        return tuple((scale or self.context_tokens) - self.stride_tokens for scale in self.scales)

    @property
    def memory_tokens(self) -> int:
        return self.context_tokens + self.stride_tokens

    @property
    def remembers(self) -> str:
        scales = ", ".join(f"{scale or self.context_tokens:,}" for scale in self.scales)
        return f"context {scales} tokens, {counted(self.latents, 'latents')}"

    @property
    def state_bytes(self) -> int:
        context = sum(reach + self.stride_tokens for reach in self.reaches)
        return self.key_value_bytes(context + self.layers * self.latents) + memory_bytes(self.motif_notes)


def family_named(name: str) -> type[ModelConfig]:
    """The sizes of a family. Raises RitornelloError for an unknown one, or one whose file needs what is not here."""
    place = f"{__package__}.{name}"
    if name not in FAMILIES and name.isidentifier() and find_spec(place):
        with needing(f"the family {name}", "'ritornello[train]'"):
            import_module(place)
    if name not in FAMILIES:
        raise RitornelloError(f"unknown model family {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def read_config(family: str, config: Mapping[str, Any]) -> ModelConfig:
    """A config from JSON. Raises RitornelloError as `family_named`, or where the config does not fit it."""
    return family_named(family).from_json(config)


def at_place(place: str) -> Any:
    """What stands at ``module:name``."""
    module, name = place.split(":")
    return getattr(import_module(module), name)
