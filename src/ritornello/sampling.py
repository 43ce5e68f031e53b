"""From logits to a token: temperature, top-p, min-p, the event grammar, and one random generator.

Axes: V = codec.N_EVENTS events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.errors import RitornelloError

KINDS = (slice(codec.NOTE_ON, codec.NOTE_OFF), slice(codec.NOTE_OFF, codec.SHIFT), slice(codec.VELOCITY, codec.END))


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Raises RitornelloError for a number outside its limits."""

    temperature: float = 1.0
    """logits of keys and of velocities are divided by it, each kind by itself: below 1 safer, above 1 wilder, 0 always
    the likeliest. When something happens, and whether it is a strike, a release or the end, stays as likely as the
    model says: of its 100 waits the longest stands for all beyond it, and whoever prefers that would hardly play"""
    top_p: float = 0.98
    """only the likeliest events that together reach this probability; 1 keeps all (Holtzman et al. 2020)"""
    min_p: float = 0.0
    """only events at least this share as likely as the likeliest; 0 keeps all (Nguyen et al. 2024)"""
    returns: float = 1.0
    """how often a minute, where a phrase ends, a passage is called back that was played before (see `Take.play`); 0
    leaves it to the model alone. The default is about as often as pianists' pieces return to something"""

    def __post_init__(self) -> None:
        for name, high in (("temperature", 100), ("min_p", 1), ("returns", 60)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise RitornelloError(f"{name} is {value}; it must lie between 0 and {high}")
        if not 0 < self.top_p <= 1:
            raise RitornelloError(f"top_p is {self.top_p}; it must lie above 0 and up to 1")

    def probabilities(self, logits: NDArray[np.floating], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(V,) probabilities of the events: zero for illegal ones and for those that top-p and min-p leave out.

        Raises:
            RitornelloError: if the logits (V,) of the legal events are no numbers, as those of a damaged model.
        """
        wide = np.where(legal, logits.astype(np.float64), -np.inf)
        highest = wide.max()
        if not np.isfinite(highest):
            raise RitornelloError("the model's likelihoods are no numbers: its weights are damaged; use another model")
        wide -= highest
        p: NDArray[np.float64] = np.exp(wide)
        p /= p.sum()
        if self.temperature != 1:
            for kind in KINDS:
                if (share := p[kind].sum()) > 0:
                    p[kind] = share * self._tempered(wide[kind])
        if self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            before = np.cumsum(p[order]) - p[order]  # what the likelier ones reach without this one
            p[order[before >= self.top_p]] = 0.0
        p[p < self.min_p * p.max()] = 0.0
        return p / p.sum()

    def _tempered(self, wide: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the events of a kind among themselves."""
        wide = wide - wide.max()
        if self.temperature == 0:
            return (np.arange(len(wide)) == wide.argmax()).astype(np.float64)
        with np.errstate(over="ignore"):  # close to temperature 0 all but the likeliest are infinitely far
            p = np.exp(wide / self.temperature)
        return p / p.sum()

    def draw(self, logits: NDArray[np.floating], legal: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """One event; never an illegal one. Takes exactly one number from ``rng``."""
        cumulative = np.cumsum(self.probabilities(logits, legal))
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
