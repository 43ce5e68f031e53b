"""What the small engine must know of a model before its first token: its sizes, and from them every byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ritornello.codec import HINT_COLUMNS, N_EVENTS
from ritornello.codec.motifs import memory_bytes
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
WEIGHTS_FILE = "weights.safetensors"  # beside the graphs of an export, which name it
BLOCKS = (128, 64, 32, 16)  # of weights that share a scale, along the inputs of a matrix


@dataclass(frozen=True)
class Sizes:
    """Sizes of a DSMR whose every layer has a horizon."""

    schedule: HorizonSchedule
    width: int
    heads: int
    mlp_width: int
    segment_tokens: int
    qk_bias: bool = False
    motif_notes: int = 0

    @classmethod
    def of(cls, family: str, config: Mapping[str, Any]) -> Sizes:
        """From a checkpoint's family and config.

        Raises:
            RitornelloError: for a model that cannot be played in a memory fixed before the first note.
        """
        if family == "perceivers":
            raise RitornelloError(
                "a Perceiver computes its window's latents anew at every stride, which is no step of fixed cost; "
                "play it with --engine torch"
            )
        if family != "dsmr":
            raise RitornelloError(f"unknown model family {family!r}; there are dsmr and perceivers")
        names = ("width", "heads", "mlp_width", "segment_tokens")
        later = ("qk_bias", "motif_notes")  # which older configs do not have
        if wrong := (set(config) - set(later)) ^ {"schedule", "dropout", *names}:
            raise RitornelloError(f"its config does not describe a dsmr model ({', '.join(sorted(wrong))})")
        try:
            schedule = HorizonSchedule.parse(str(config["schedule"]))
            numbers: dict[str, Any] = {name: int(config[name]) for name in names}
            numbers |= {name: int(config.get(name, 0)) for name in later}
            sizes = cls(schedule, **{**numbers, "qk_bias": bool(numbers["qk_bias"])})
        except (TypeError, ValueError) as error:
            raise RitornelloError(f"its config does not describe a dsmr model ({error})") from None
        if None in schedule.horizons:
            raise RitornelloError(
                "an unlimited layer grows with the piece, so its memory cannot be fixed; play it with --engine torch, "
                "or train it with a horizon in every layer"
            )
        return sizes

    @property
    def head_size(self) -> int:
        """D."""
        return self.width // self.heads

    @property
    def horizons(self) -> tuple[int, ...]:
        """H_l of every layer, in tokens."""
        return tuple(h for h in self.schedule.horizons if h is not None)

    def slots(self, horizon: int) -> int:
        """Keys that a layer has room for: its horizon and the open segment."""
        return horizon + self.segment_tokens

    def input_shapes(self, tokens: int) -> dict[str, tuple[int, ...]]:
        """The inputs of the graph that reads ``tokens`` at once, by name and in order; axes as in ``graph``."""
        queries = tokens if self.schedule.rule == "sliding" else 1  # else all of a segment see the same of a memory
        angles = (1, tokens, self.head_size // 2)
        shapes: dict[str, tuple[int, ...]] = {"tokens": (tokens,), "cos": angles, "sin": angles}
        if self.motif_notes:
            shapes["hints"] = (tokens, HINT_COLUMNS)
        for horizon in dict.fromkeys(self.horizons):
            shapes[f"seen.{horizon}"] = (queries, self.slots(horizon))
        for layer, horizon in enumerate(self.horizons):
            shapes[f"keys.{layer}"] = (1, self.heads, self.head_size, self.slots(horizon))
            shapes[f"values.{layer}"] = (1, self.heads, self.slots(horizon), self.head_size)
        return shapes

    def output_shapes(self, tokens: int) -> dict[str, tuple[int, ...]]:
        """Its outputs."""
        layers, heads, size = len(self.horizons), self.heads, self.head_size
        return {
            "logits": (tokens, N_EVENTS),
            "new_keys": (layers, heads, size, tokens),
            "new_values": (layers, heads, tokens, size),
        }

    @property
    def state_bytes(self) -> int:
        """Keys and values of all layers in float32, and the motif memory: allocated before the first token."""
        keys_and_values = sum(self.slots(h) for h in self.horizons) * 2 * self.width * 4
        return keys_and_values + (memory_bytes(self.motif_notes) if self.motif_notes else 0)

    def weight_bytes(self, precision: Precision) -> int:
        """Of all matrices: four bytes a weight, or one and a share of its block's scale."""
        if precision == "fp32":
            return sum(4 * inputs * outputs for inputs, outputs in self.matrices.values())
        return sum((inputs + 4 * (inputs // block_of(inputs))) * outputs for inputs, outputs in self.matrices.values())

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every matrix, by its name in the graph."""
        of_a_layer = {
            "qkv": (self.width, 3 * self.width),
            "out": (self.width, self.width),
            "gate_up": (self.width, 2 * self.mlp_width),
            "down": (self.mlp_width, self.width),
        }
        layers = range(len(self.horizons))
        return {f"blocks.{n}.{name}": shape for n in layers for name, shape in of_a_layer.items()} | {
            "head": (self.width, N_EVENTS)
        }


def block_of(inputs: int) -> int:
    """How many weights of a column share a scale: the most that divide its length.

    Raises:
        RitornelloError: for a length that is no multiple of 16.
    """
    for block in BLOCKS:
        if inputs % block == 0:
            return block
    raise RitornelloError(f"a matrix with {inputs} inputs cannot be int8, only multiples of 16 can; use fp32")
