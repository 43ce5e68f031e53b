"""Sizes of the model families as plain data, and the one registry of families. No torch: loading it is for `load`.

Whatever follows from sizes alone is derived here and nowhere else: bytes of states and memories, matrices, FLOPs, and
what a family is fed in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ritornello.codec import N_EVENTS
from ritornello.codec.motifs import memory_bytes
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.costs import key_flops, mean_keys_seen
from ritornello.horizons.schedule import key_value_bytes

if TYPE_CHECKING:
    from typing import Self

MAX_SIZE = 1_000_000
STEP_TOKENS = 4096  # of an unlimited memory's growth where its shapes should change seldom


class CropSizes(NamedTuple):
    """Of the crops that a family is trained on."""

    context_tokens: int
    """that are read, at most"""
    latents: int
    """the last of them, which are predicted"""


class ModelConfig:
    """Sizes of one model: a family's are a frozen dataclass made of this, whose fields have their units beneath them.

    A family that says no more than its fields is trained on lanes, played by torch, and remembers an unknown number of
    bytes that does not grow.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    later: ClassVar[tuple[str, ...]] = ()
    """fields that have come since the family's first, which older JSON does not have"""
    schedule: HorizonSchedule | None = None
    """memory horizons, one per layer; None in families without"""
    motif_notes: int = 0
    """strikes in the motif memory (`codec.motifs`) whose hints the model reads with each token; 0 for none"""

    if TYPE_CHECKING:  # fields of every family; a property here would be their default

        @property
        def width(self) -> int:
            """C, channels of the residual stream."""

        @property
        def segment_tokens(self) -> int:
            """S, the unit of recurrence: a training step of a lane, and what `forward` may do once in a while."""

    @property
    def family(self) -> str:
        """Its name in the registry. Raises TypeError for a config of no known family."""
        return _name_of(type(self))

    @property
    def crops(self) -> CropSizes | None:
        """Sizes of the crops that training reads; None for lanes of consecutive segments."""
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
    def remembers(self) -> str:
        """What, in a few words."""
        return "a state of fixed size"

    @property
    def state_bytes(self) -> int | None:
        """Of one performance in float32, allocated before its first token; None where it grows or is not known."""
        return None

    def lane_bytes(self, tokens: int, *, bytes_per_number: int, reserved: bool) -> int:
        """Of one lane's state that grows with the tokens read, in whole segments; 0 where none does.

        Args:
            tokens: read so far.
            bytes_per_number: of keys and values.
            reserved: whether room is made before it is needed, as on CUDA.
        """
        return 0

    def describe(self) -> str:
        """What a model of these sizes remembers, in a few words."""
        motifs = f", motif memory of {self.motif_notes:,} strikes" if self.motif_notes else ""
        return f"{self.remembers}{motifs}"

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values; `from_json` gives the same sizes back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return values | plain | ({"schedule": str(self.schedule)} if self.schedule else {})

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """Sizes from JSON, which may lack the fields that have come ``later``.

        Raises:
            RitornelloError: naming what does not fit.
        """
        known = {f.name for f in fields(cls)}
        wrong = {f"no {name}" for name in known - set(cls.later) - set(config)}
        wrong |= {f"an unknown {name}" for name in set(config) - known}
        try:
            if wrong:
                raise TypeError(f"it has {', '.join(sorted(wrong))}")
            parsed = {"schedule": HorizonSchedule.parse(str(config["schedule"]))} if "schedule" in config else {}
            return cls(**{**config, **parsed})
        except TypeError as error:
            raise RitornelloError(f"the config does not fit the family {_name_of(cls)}: {error}") from None

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The fields that need not be given, with what they are then."""
        return {f.name: f.default for f in fields(cls) if f.default is not MISSING}

    def check_exportable(self) -> None:
        """Raises RitornelloError for a model that cannot play in a memory fixed before the first note."""
        if FAMILIES[self.family].exporter is None:
            raise RitornelloError(f"there is no ONNX graph of the family {self.family}; play it with --engine torch")

    def check_whole(self, *names: str, low: int = 1) -> None:
        """Raises RitornelloError for fields that are no whole numbers from ``low`` to a million."""
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= MAX_SIZE:
                raise RitornelloError(f"{name} is {value}; it must be a whole number between {low} and {MAX_SIZE:,}")

    @property
    def motif_bytes(self) -> int:
        """Of the motif memory."""
        return memory_bytes(self.motif_notes) if self.motif_notes else 0


class AttentionConfig(ModelConfig):
    """Sizes of a model made of ``models.blocks``."""

    later: ClassVar[tuple[str, ...]] = ("qk_bias", "motif_notes")
    heads: int
    dropout: float

    @property
    def head_size(self) -> int:
        """D."""
        return self.width // self.heads

    def key_value_bytes(self, slots: int, bytes_per_number: int = 4) -> int:
        """Of so many slots' keys and values."""
        return key_value_bytes(slots, width=self.width, bytes_per_number=bytes_per_number)

    def check_sizes(self, *names: str) -> None:
        """Raises RitornelloError for fields outside their limits: those named, and those that all have."""
        self.check_whole("width", "heads", "mlp_width", *names)
        self.check_whole("motif_notes", low=0)
        if self.width % (2 * self.heads):
            raise RitornelloError(f"width {self.width} must be a multiple of 2 x heads ({self.heads}); change either")
        if not 0 <= self.dropout < 1:
            raise RitornelloError(f"dropout is {self.dropout}; it must lie between 0 and 1, below 1")


@dataclass(frozen=True)
class DSMRConfig(AttentionConfig):
    """Sizes of a DSMR. Raises RitornelloError where they do not fit together."""

    schedule: HorizonSchedule = field()
    """memory horizons, one per layer: their number is the depth"""
    width: int = 256
    """C, channels of the residual stream"""
    heads: int = 4
    """H; the head size C / H must be even"""
    mlp_width: int = 704
    """channels inside the gated MLP"""
    segment_tokens: int = 512
    """S, the unit of recurrence, in tokens"""
    dropout: float = 0.0
    """share of each branch's output that training drops"""
    qk_bias: bool = False
    """queries and keys have learned biases, which start as a preference for what is near"""
    motif_notes: int = 0
    """strikes in the motif memory (`codec.motifs`) whose hints the model reads with each token; 0 for none"""

    def __post_init__(self) -> None:
        self.check_sizes("segment_tokens")

    @property
    def horizons(self) -> tuple[int, ...]:
        """H_l of every layer, in tokens. Raises RitornelloError where one has no limit."""
        if None in self.schedule.horizons:
            raise RitornelloError(
                "an unlimited layer grows with the piece, so its memory cannot be fixed; play it with --engine torch, "
                "or train it with a horizon in every layer"
            )
        return tuple(h for h in self.schedule.horizons if h is not None)

    def check_exportable(self) -> None:
        """Raises RitornelloError for an unlimited layer."""
        self.horizons  # noqa: B018

    @property
    def memory_tokens(self) -> int:
        """The longest horizon and the open segment."""
        return max(h or 0 for h in self.schedule.horizons) + self.segment_tokens

    @property
    def remembers(self) -> str:
        """The horizons."""
        return f"horizons {self.schedule}"

    @property
    def state_bytes(self) -> int | None:
        """Rooms of all layers, and the motif memory; None where one is unlimited."""
        if None in self.schedule.horizons:
            return None
        return self.key_value_bytes(sum(map(self.room, self.horizons))) + self.motif_bytes

    def room(self, horizon: int) -> int:
        """Slots that a layer has use for: its horizon and the open segment."""
        return horizon + self.segment_tokens

    def slots(self, position: Any, horizon: int | None, *, there: int | None) -> int:
        """Slots that a layer keeps for queries at ``position`` and later: horizon and open segment, as far as read.

        Args:
            position: of one lane or of many, an int or an array of NumPy; what any of them needs is kept for all.
            horizon: of the layer; None for unlimited.
            there: keys that there are, no more are kept. None, as on CUDA, where each number of slots is a compilation
                of its own: room for the whole horizon from the start, and for an unlimited one room that grows in
                steps. Steps double up to `STEP_TOKENS`, from 16 of them on they are a sixteenth of the power of two
                above: few rooms, and of a long piece's none an eighth larger than needed.
        """
        if horizon is None:
            read = int(np.max(position))
            if there is not None or not read:
                return min(read, there or 0)
            power = 1 << (read - 1).bit_length()
            step = max(power // 16, min(power, STEP_TOKENS))
            return max(self.segment_tokens, -(-read // step) * step)
        phase = position % self.segment_tokens
        needed = phase + horizon if self.schedule.rule == "segment" else np.maximum(phase, horizon)
        return int(np.max(needed)) if there is None else min(int(np.max(np.minimum(position, needed))), there)

    def lane_bytes(self, tokens: int, *, bytes_per_number: int, reserved: bool) -> int:
        """See `ModelConfig`."""
        read = -(-tokens // self.segment_tokens) * self.segment_tokens
        slots = (self.slots(read, h, there=None if reserved else read) for h in self.schedule.horizons)
        return self.key_value_bytes(sum(slots), bytes_per_number)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every matrix, by the name of its module."""
        of_a_layer = {
            "qkv": (self.width, 3 * self.width),
            "out": (self.width, self.width),
            "gate_up": (self.width, 2 * self.mlp_width),
            "down": (self.mlp_width, self.width),
        }
        layers = range(self.schedule.layers)
        return {f"blocks.{n}.{name}": shape for n in layers for name, shape in of_a_layer.items()} | {
            "head": (self.width, N_EVENTS)
        }

    def training_flops_per_token(self, piece_tokens: int) -> float:
        """The FLOPs that training on a token takes, without the optimisers; the mean of where memories are full.

        6 for each weight of a matrix, and for each key seen three times the forward pass's (arXiv 2204.02311, appendix
        B). Remembered keys are detached and take no gradient, which is half of the backward pass: they count twice.

        Args:
            piece_tokens: of the piece that unlimited memories hold, which are full nowhere.
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

    layers: int = 8
    """self-attention layers over the latents"""
    width: int = 256
    """C, channels of the residual stream"""
    heads: int = 4
    """H; the head size C / H must be even"""
    mlp_width: int = 704
    """channels inside the gated MLPs"""
    context_tokens: int = 8192
    """N, the most tokens that a latent can look at"""
    latents: int = 512
    """Q, the most tokens that are processed in depth together"""
    scales: tuple[int | None, ...] = (None, 1024)
    """cross-attentions in cascade: None sees the whole context, a number only the last so many tokens of a window"""
    stride_tokens: int = 256
    """tokens by which a full window of latents moves on"""
    dropout: float = 0.0
    """share of each branch's output that training drops"""
    qk_bias: bool = False
    """queries and keys have learned biases, which start as a preference for what is near"""
    motif_notes: int = 0
    """strikes in the motif memory (`codec.motifs`) whose hints the model reads with each token; 0 for none"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        self.check_sizes("layers", "context_tokens", "latents", "stride_tokens")
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
    def segment_tokens(self) -> int:
        """The stride: windows move where a position is a multiple of it."""
        return self.stride_tokens

    @property
    def crops(self) -> CropSizes:
        """Crops have nothing to do with each other: each is a whole window and its context."""
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
        """The context and a stride."""
        return self.context_tokens + self.stride_tokens

    @property
    def remembers(self) -> str:
        """Context and latents."""
        scales = ", ".join(f"{scale or self.context_tokens:,}" for scale in self.scales)
        return f"context {scales} tokens, {self.latents:,} latents"

    @property
    def state_bytes(self) -> int:
        """Rooms of the context's keys and of the latents', and the motif memory."""
        context = sum(reach + self.stride_tokens for reach in self.reaches)
        return self.key_value_bytes(context + self.layers * self.latents) + self.motif_bytes

    def check_exportable(self) -> None:
        """Raises RitornelloError."""
        raise RitornelloError(
            "a Perceiver computes its window's latents anew at every stride, which is no step of fixed cost; "
            "play it with --engine torch"
        )


@dataclass(frozen=True)
class Family:
    """What the program must know of a family of models to train, evaluate, play and describe it."""

    config: type[ModelConfig]
    model: str
    """its class, a `models.protocol.Model`, as ``module:name``: loaded when one is built"""
    exporter: str | None = None
    """what makes its ONNX graph (see `engines.graph.build_graph`), as ``module:name``; None: torch alone plays it"""


FAMILIES: dict[str, Family] = {
    "dsmr": Family(DSMRConfig, "ritornello.models.dsmr:DSMR", "ritornello.engines.graph:build_graph"),
    "perceivers": Family(PerceiverConfig, "ritornello.models.perceivers:Perceiver"),
}


def read_config(family: str, config: Mapping[str, Any]) -> ModelConfig:
    """A config from JSON. Raises RitornelloError for an unknown family, or one that the config does not fit."""
    if family not in FAMILIES:
        raise RitornelloError(f"unknown model family {family!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[family].config.from_json(config)


def load(place: str) -> Any:
    """What stands at ``module:name``."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


def _name_of(kind: type[ModelConfig]) -> str:
    for name, family in FAMILIES.items():
        if family.config is kind:
            return name
    raise TypeError(f"{kind.__name__} is of no known family; enter it in FAMILIES")
