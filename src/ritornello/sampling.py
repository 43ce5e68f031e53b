"""From logits to a token: temperature, top-p, min-p, the event grammar, and one random generator.

At any moment the longest wait, which stands for all beyond it, is often the likeliest of all events: whoever drew
safely among all events alike would hardly play. So temperature and min-p act within a kind of events: strikes,
releases, for min-p also waits but the longest. Top-p acts over all events as far as `ALL_TOP_P`, where it
leaves out what is rare, and beyond that within each kind: whether a key is struck or let go stays as likely.
None of them acts on velocities: what is rare among them is an accent or an echo, and music without it is flat.

Axes: V = codec.N_EVENTS events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.errors import RitornelloError, check_limits

STRIKES, RELEASES = slice(codec.NOTE_ON, codec.NOTE_OFF), slice(codec.NOTE_OFF, codec.SHIFT)
WAITS, VELOCITIES = slice(codec.SHIFT, codec.VELOCITY - 1), slice(codec.VELOCITY, codec.END)
TEMPERED = (STRIKES, RELEASES)
KINDS = (*TEMPERED, WAITS)  # without the longest wait
ALL_TOP_P = 0.95


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn. Raises RitornelloError for a number outside its limits."""

    temperature: float = 0.95
    """logits of keys are divided by it: below 1 safer, above 1 wilder, 0 always the likeliest"""
    top_p: float = 0.98
    """only the likeliest events that together reach this share; 1 keeps all (Holtzman et al. 2020)"""
    min_p: float = 0.0
    """only events at least this share as likely as the likeliest; 0 keeps all (Nguyen et al. 2024)"""
    returns: float = 0.75
    """how often a minute, where a phrase ends, a passage is called back that was played before (see `Take.play`); 0
    leaves it to the model alone. At the default as much returns as in pianists' pieces"""

    playable: bool = True
    """whether what no hands play is left out: strikes of a key that was just struck, or too many, keys held for ever,
    and ends after less than any piece that the model learnt from (see `Take.play`)"""

    def __post_init__(self) -> None:
        check_limits(temperature=(self.temperature, 0, 100), min_p=(self.min_p, 0, 1), returns=(self.returns, 0, 60))
        if not 0 < self.top_p <= 1:
            raise RitornelloError(f"top_p is {self.top_p}; it must lie above 0 and up to 1")

    def probabilities(self, logits: NDArray[np.floating], legal: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(V,) probabilities of the events: zero for illegal ones and for those that top-p and min-p leave out.

        Raises:
            RitornelloError: if the logits (V,) of the legal events are no numbers, as those of a damaged model.
        """
        wide = np.where(legal, logits.astype(np.float64), -np.inf)
        if not np.isfinite(wide.max()):
            raise RitornelloError("the model's likelihoods are no numbers: its weights are damaged; use another model")
        p = _shares(wide)
        if self.temperature != 1:
            for kind in TEMPERED:
                if (share := p[kind].sum()) > 0:
                    p[kind] = share * self._tempered(wide[kind])
        q = np.where(_kept(p, max(self.top_p, ALL_TOP_P), 0.0), p, 0.0)
        q[VELOCITIES] = p[VELOCITIES]
        if self.top_p < ALL_TOP_P or self.min_p:
            top_p = self.top_p if self.top_p < ALL_TOP_P else 1.0
            for kind in KINDS:
                if (share := q[kind].sum()) > 0:
                    few = np.where(_kept(p[kind] / p[kind].sum(), top_p, self.min_p), q[kind], 0.0)
                    q[kind] = share * (few / few.sum())
        return q / q.sum()

    def _tempered(self, wide: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the events of a kind among themselves."""
        if self.temperature == 0:
            return (np.arange(len(wide)) == wide.argmax()).astype(np.float64)
        return _shares(wide, self.temperature)

    def draw(self, logits: NDArray[np.floating], legal: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """One event; never an illegal one. Takes exactly one number from ``rng``."""
        cumulative = np.cumsum(self.probabilities(logits, legal))
        return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def _shares(wide: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """The softmax of logits, one of which is a number."""
    with np.errstate(over="ignore"):  # close to temperature 0 all but the likeliest are infinitely far
        p: NDArray[np.float64] = np.exp((wide - wide.max()) / temperature)
    return p / p.sum()


def _kept(p: NDArray[np.float64], top_p: float, min_p: float) -> NDArray[np.bool_]:
    """Which events top-p and min-p leave in."""
    kept = p >= min_p * p.max()
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]  # what the likelier ones reach without this one
        kept[order[before >= top_p]] = False
    return kept
