"""Fixed memories of keys and values: rings that are allocated once and written in place.

The token at position p lies in slot p mod (horizon + segment). When a slot is written again, what it held lies before
everything that a query at that time may see, under both rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello.horizons import visible
from ritornello.models.config import DSMRConfig


class Rings:
    """What one performance remembers; axes as in ``graph``."""

    def __init__(self, config: DSMRConfig) -> None:
        self._config = config
        self._rings = [_Ring(config, h) for h in dict.fromkeys(config.horizons)]
        self._start = -1  # of the segment that the rings' marks of visibility hold for

    @property
    def nbytes(self) -> int:
        return sum(ring.keys.nbytes + ring.values.nbytes for ring in self._rings)

    def inputs(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """What the rings are to a graph, by the names of its inputs: views that stay what the rings hold."""
        for ring in self._rings:
            for n, layer in enumerate(ring.layers):
                yield f"keys.{layer}", ring.keys[n : n + 1]
                yield f"values.{layer}", ring.values[n : n + 1]
            if self._config.schedule.rule == "segment":
                yield f"seen.{ring.horizon}", ring.seen

    def before_reading(self, position: int) -> None:
        """Marks what the segment of ``position`` sees (segment rule; under the sliding rule see `sliding`)."""
        start = position // self._config.segment_tokens * self._config.segment_tokens
        if start != self._start and self._config.schedule.rule == "segment":
            self._start = start
            for ring in self._rings:
                ring.mark(np.array([[position]]), ring.seen)

    def sliding(self, horizon: int, position: int, out: NDArray[np.float32]) -> None:
        """Fills (T, R) with 0 where a query at ``position`` and on sees a slot of a layer, minus infinity elsewhere."""
        ring = next(ring for ring in self._rings if ring.horizon == horizon)
        ring.mark(np.arange(position, position + len(out))[:, None], out)

    def write(self, position: int, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Puts keys (L, H, D, T) and values (L, H, T, D) of the tokens from ``position`` on into their slots."""
        for ring in self._rings:
            ring.write(position, keys, values)

    def save(self) -> dict[str, NDArray[np.generic]]:
        return {
            f"{name}.{ring.horizon}": array.copy() for ring in self._rings for name, array in ring.contents().items()
        }

    def load(self, saved: Mapping[str, NDArray[np.generic]]) -> None:
        self._start = -1
        for ring in self._rings:
            for name, array in ring.contents().items():
                array[:] = saved[f"{name}.{ring.horizon}"]


class _Ring:
    """The memories of all layers of one horizon, which hold the same tokens."""

    def __init__(self, config: DSMRConfig, horizon: int) -> None:
        slots, heads, size = config.room(horizon), config.heads, config.head_size
        self.horizon = horizon
        self.layers = [layer for layer, own in enumerate(config.horizons) if own == horizon]
        self.keys = np.zeros((len(self.layers), heads, size, slots), np.float32)
        self.values = np.zeros((len(self.layers), heads, slots, size), np.float32)
        self.seen = np.full((1, slots), -np.inf, np.float32)
        self._held = np.full(slots, -1)  # the position of the token in each slot
        self._config = config
        first, last = self.layers[0], self.layers[-1]
        neighbours = len(self.layers) == last - first + 1
        self._own: slice | list[int] = slice(first, last + 1) if neighbours else self.layers  # a slice copies nothing

    def contents(self) -> dict[str, NDArray[Any]]:
        """What it holds, by name. What is seen of it follows from the position."""
        return {"keys": self.keys, "values": self.values, "held": self._held}

    def mark(self, query: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        config = self._config
        seen = visible(
            query, self._held, horizon=self.horizon, segment_tokens=config.segment_tokens, rule=config.schedule.rule
        )
        out[:] = np.where(seen, np.float32(0), np.float32(-np.inf))

    def write(self, position: int, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        length, first = keys.shape[3], position % len(self._held)
        slots: slice | NDArray[np.int64] = slice(first, first + length)
        if first + length > len(self._held):
            slots = np.arange(first, first + length) % len(self._held)
        self.keys[..., slots] = keys[self._own]
        self.values[:, :, slots] = values[self._own]
        self._held[slots] = np.arange(position, position + length)
        self.seen[0, slots] = 0.0
