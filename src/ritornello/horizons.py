"""Memory horizons over depth: schedules as data, what a query sees, and what a schedule costs.

A schedule is the tuple (H_1 ... H_L), lowest layer first: how many tokens before the current segment's start layer l
still sees. ``None`` is unlimited. Here are its constructors, its text form, its budget and bytes, its reach through
depth, and the visibility rule, which training, evaluation, prompting and stepping all use.
Source of the idea: Depth-Structured Music Recurrence, arXiv 2602.19816.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from ritornello.errors import RitornelloError

Rule = Literal["segment", "sliding"]
MAX_HORIZON_TOKENS = 10_000_000


@dataclass(frozen=True)
class HorizonSchedule:
    """How far each layer remembers.

    Args:
        horizons: per layer, lowest first, tokens before the segment's start that stay visible; None = unlimited.
        rule: ``segment`` (Transformer-XL's memory) or ``sliding`` (the horizon moves with every query).

    Raises:
        RitornelloError: for no layers, a negative, fractional or absurd horizon, or an unknown rule.
    """

    horizons: tuple[int | None, ...]
    rule: Rule = "segment"

    def __post_init__(self) -> None:
        if not self.horizons:
            raise RitornelloError("a schedule needs at least one layer")
        if self.rule not in ("segment", "sliding"):
            raise RitornelloError(f"unknown rule {self.rule!r}: it is 'segment' or 'sliding'")
        for layer, horizon in enumerate(self.horizons, 1):
            if horizon is None:
                continue
            if isinstance(horizon, bool) or not isinstance(horizon, int) or not 0 <= horizon <= MAX_HORIZON_TOKENS:
                raise RitornelloError(
                    f"layer {layer} has horizon {horizon!r}: horizons are whole tokens from 0 to {MAX_HORIZON_TOKENS}"
                )

    @classmethod
    def parse(cls, text: str, *, layers: int | None = None) -> HorizonSchedule:
        """The schedule that a text names.

        Args:
            text: a list lowest layer first, runs as ``2x4096`` (``"2x4096, 6x512"``, ``"unlimited, 7x0"``), or a
                constructor: ``two_scale(long=2x4096, short=512)``, ``uniform(512)``, ``unlimited``. A trailing
                ``sliding`` selects that rule.
            layers: depth; needed where the text does not say it, checked where it does.

        Raises:
            RitornelloError: naming the text and the mistake.
        """
        words = text.strip()
        rule: Rule = "segment"
        if found := re.fullmatch(r"(.*\S)\s+(segment|sliding)", words, re.DOTALL):
            words, rule = found[1], "sliding" if found[2] == "sliding" else "segment"
        try:
            if found := re.fullmatch(r"([a-z_]+)\s*(?:\((.*)\))?", words):
                name, inside = found[1], found[2] or ""
                if name not in _CONSTRUCTORS:
                    known = ", ".join(_CONSTRUCTORS)
                    raise RitornelloError(f"unknown; known are {known}, or a plain list such as 2x4096, 6x512")
                horizons = _CONSTRUCTORS[name](*_arguments(inside), layers)
            else:
                horizons = _runs(words)
            if layers is not None and len(horizons) != layers:
                raise RitornelloError(f"it describes {len(horizons)} layers, the model has {layers}")
            return cls(tuple(horizons), rule)
        except RitornelloError as error:
            raise RitornelloError(f"schedule {text!r}: {error}") from None

    @classmethod
    def two_scale(cls, *, layers: int, n_long: int, long: int, short: int) -> HorizonSchedule:
        """``long`` tokens in the lowest ``n_long`` layers, ``short`` in all others (the paper's final model)."""
        if not 0 <= n_long <= layers:
            raise RitornelloError(f"a two-scale schedule of {layers} layers cannot have {n_long} long ones")
        return cls((long,) * n_long + (short,) * (layers - n_long))

    @classmethod
    def uniform(cls, *, layers: int, horizon: int) -> HorizonSchedule:
        """The same horizon in every layer; 0 is a model without memory."""
        return cls((horizon,) * layers)

    @classmethod
    def unlimited(cls, *, layers: int) -> HorizonSchedule:
        """The whole piece in every layer: the full-memory recurrent Transformer."""
        return cls((None,) * layers)

    def __str__(self) -> str:
        """The text form; ``parse`` gives back the same schedule."""
        runs = [(h, len(list(group))) for h, group in groupby(self.horizons)]
        words = ", ".join((f"{n}x" if n > 1 else "") + ("unlimited" if h is None else str(h)) for h, n in runs)
        if words == "unlimited":  # alone, that word is the constructor of any depth
            words = "1xunlimited"
        return words if self.rule == "segment" else f"{words} {self.rule}"

    @property
    def layers(self) -> int:
        """The number of layers."""
        return len(self.horizons)

    @property
    def budget_tokens(self) -> int | None:
        """The sum of the horizons; None if any is unlimited."""
        return None if None in self.horizons else sum(h or 0 for h in self.horizons)

    def state_bytes(self, *, width: int, bytes_per_number: int) -> int | None:
        """Bytes of keys and values per lane once the horizons are full; None if any is unlimited.

        At a segment's start this is the whole state; inside a segment its own tokens (``layers x S`` at most) are
        kept besides. ``width`` is the width of the keys: heads x head size.
        """
        return None if self.budget_tokens is None else self.budget_tokens * 2 * width * bytes_per_number

    def first_reached(self, position: int, *, segment_tokens: int) -> int:
        """The earliest position that can influence the output at ``position``, through all layers.

        From the top layer down, the earliest key that a layer sees is the query of the layer below: its own first
        key is the earliest of all, since ``first`` grows with the query's position.
        """
        for horizon in reversed(self.horizons):
            if horizon is None:
                return 0
            start = position // segment_tokens * segment_tokens
            first = start - horizon if self.rule == "segment" else min(start, position - horizon)
            position = max(0, first)
        return position

    def reach_tokens(self, *, segment_tokens: int) -> int | None:
        """The most tokens back that any output can be influenced from; None if any horizon is unlimited."""
        if self.budget_tokens is None:
            return None
        far = (self.budget_tokens // segment_tokens + self.layers + 2) * segment_tokens
        return max(q - self.first_reached(q, segment_tokens=segment_tokens) for q in range(far, far + segment_tokens))


def visible(query: Any, key: Any, *, horizon: int | None, segment_tokens: int, rule: Rule = "segment") -> Any:
    """Whether the query at a position sees the key at another: the one rule of the whole project.

    Args:
        query: positions in the piece, an int or a signed integer array of NumPy or torch.
        key: the same, broadcastable against ``query``. Negative positions belong to no piece and are never seen.
        horizon: H_l of the layer; None = unlimited.
        segment_tokens: S.
        rule: see `HorizonSchedule`.

    Returns:
        bool, of the broadcast shape: ``first(query) <= key <= query`` with ``start = query // S * S`` and
        ``first = start - H`` (segment rule) or ``min(start, query - H)`` (sliding rule).
    """
    seen = (key <= query) & (key >= 0)
    if horizon is None:
        return seen
    start = query // segment_tokens * segment_tokens
    if rule == "segment":
        return seen & (key >= start - horizon)
    return seen & ((key >= start) | (key >= query - horizon))


Positional = list[str]
Named = dict[str, str]


def _two_scale(positional: Positional, named: Named, layers: int | None) -> list[int | None]:
    given = _bound(positional, named, ("long", "short"))
    return _filled(_runs(given["long"]), given["short"], layers)


def _uniform(positional: Positional, named: Named, layers: int | None) -> list[int | None]:
    return _filled([], _bound(positional, named, ("horizon",))["horizon"], layers)


def _unlimited(positional: Positional, named: Named, layers: int | None) -> list[int | None]:
    _bound(positional, named, ())
    return _filled([], "unlimited", layers)


_CONSTRUCTORS: dict[str, Callable[[Positional, Named, int | None], list[int | None]]] = {
    "two_scale": _two_scale,
    "uniform": _uniform,
    "unlimited": _unlimited,
}


def _filled(low: list[int | None], rest: str, layers: int | None) -> list[int | None]:
    """``low`` and above it ``rest``: a run that says its own length, or one horizon for all layers that are left."""
    high = _runs(rest)
    if "x" in rest:
        return low + high
    if layers is None:
        raise RitornelloError("it does not say how many layers there are; write a run such as 6x512")
    if len(low) > layers:
        raise RitornelloError(f"it describes {len(low)} layers, the model has {layers}")
    return low + high * (layers - len(low))


def _arguments(inside: str) -> tuple[Positional, Named]:
    positional: Positional = []
    named: Named = {}
    for part in filter(None, (p.strip() for p in inside.split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        if equals:
            if name in named:
                raise RitornelloError(f"{name} is given twice")
            named[name] = value
        else:
            positional.append(name)
    return positional, named


def _bound(positional: Positional, named: Named, names: tuple[str, ...]) -> Named:
    wanted = ", ".join(names) or "nothing"
    given = dict(zip(names, positional))
    if len(positional) > len(names) or given.keys() & named.keys() or (given | named).keys() != set(names):
        raise RitornelloError(f"it takes {wanted} in its brackets")
    return given | named


def _runs(text: str) -> list[int | None]:
    horizons: list[int | None] = []
    for part in _parts(text):
        found = re.fullmatch(r"(?:([0-9]{1,18})\s*x\s*)?([0-9]{1,18}|unlimited)", part)
        if not found:
            raise RitornelloError(f"{part!r} is not a horizon: write whole tokens, a run such as 2x4096, or unlimited")
        count = int(found[1] or 1)
        if not 1 <= count <= 1000:
            raise RitornelloError(f"{part!r} describes {count} layers; a run has 1 to 1000")
        horizons += [None if found[2] == "unlimited" else int(found[2])] * count
    return horizons


def _parts(text: str) -> Iterable[str]:
    return (part.strip() for part in text.strip().strip("[]()").split(","))
