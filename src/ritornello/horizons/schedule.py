"""Schedules as data: the tuple (H_1 ... H_L), its constructors and their text, its limits, budget, bytes and reach.

H_l is how many tokens before the current segment's start layer l still sees; the lowest layer comes first. A new kind
of schedule is a constructor of `HorizonSchedule` and a line in the table at the end of this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ritornello.errors import RitornelloError, counted
from ritornello.horizons.text import read_arguments, read_choice, read_runs, read_whole
from ritornello.horizons.visibility import Rule

MAX_HORIZON_TOKENS = 10_000_000


@dataclass(frozen=True)
class HorizonSchedule:
    """How far each layer remembers.

    Constructors take horizons, or in their place a ``budget``: the total of all layers, in tokens. Where a kind cannot
    spend it to the last token it spends the most that it can, never more (`requested` keeps what was asked for).
    All are of the segment rule; ``dataclasses.replace(schedule, rule="sliding")`` is the same under the other.

    Args:
        horizons: per layer, lowest first, tokens before the segment's start that stay visible; None = unlimited.
        rule: ``segment`` (Transformer-XL's memory) or ``sliding`` (the horizon moves with every query).

    Raises:
        RitornelloError: for no layers, a negative, fractional or absurd horizon, or an unknown rule; by constructors
            also for a budget below the depth, or beside horizons.
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
                constructor: ``unlimited``, ``perceiver_ar(long=8192)``, ``two_scale(long=2x4096, short=512)``,
                ``binary(long=2048, layers=1-4)`` (or ``1+3+5``, ``odd``, ``even``), ``ascending(low=128, high=2048)``,
                ``descending(low=128, high=2048)``, ``uniform(512)``. All but the first take a budget as well:
                ``two_scale(budget=8192, long_layers=2, short=256)``, ``binary(budget=8192, layers=odd)``, and the
                others ``budget=8192`` alone. A trailing ``sliding`` selects that rule.
            layers: depth; needed where the text does not say it, checked where it does.

        Raises:
            RitornelloError: naming the text and the mistake.
        """
        return requested(text, layers=layers).schedule

    @classmethod
    def unlimited(cls, *, layers: int) -> HorizonSchedule:
        """The whole piece in every layer: the full-memory recurrent Transformer."""
        return cls((None,) * layers)

    @classmethod
    def perceiver_ar(cls, *, layers: int, long: int | None = None, budget: int | None = None) -> HorizonSchedule:
        """``long`` tokens in the lowest layer and no memory above it, as in Perceiver AR (arXiv 2202.07765)."""
        return cls.binary(layers=layers, remembering=(1,), long=long, budget=budget)

    @classmethod
    def two_scale(
        cls, *, layers: int, n_long: int, long: int | None = None, short: int, budget: int | None = None
    ) -> HorizonSchedule:
        """``long`` tokens in the lowest ``n_long`` layers, ``short`` in all others (the paper's final model).

        A budget goes to the short layers first; the long ones share what is left and must get ``short`` at least.
        """
        _check_either(budget, layers, long=long)
        if not 0 <= n_long <= layers:
            raise RitornelloError(f"a two-scale schedule of {counted(layers, 'layers')} cannot have {n_long} long ones")
        if budget is not None:
            if n_long == 0:
                raise RitornelloError("a budget needs a long layer to be spent on; give at least one")
            if budget < short * layers:
                raise RitornelloError(
                    f"a budget of {counted(budget, 'tokens')} is smaller than {counted(layers, 'layers')} of {short}; "
                    f"give at least {short * layers}, or shorten the short ones"
                )
            long = (budget - short * (layers - n_long)) // n_long
        return cls((long,) * n_long + (short,) * (layers - n_long))

    @classmethod
    def binary(
        cls, *, layers: int, remembering: Collection[int], long: int | None = None, budget: int | None = None
    ) -> HorizonSchedule:
        """``long`` tokens in the ``remembering`` layers, counted from 1, and 0 in all others (selective retention)."""
        _check_either(budget, layers, long=long)
        if not remembering or not set(remembering) <= set(range(1, layers + 1)):
            raise RitornelloError(
                f"layers {sorted(remembering)} cannot remember: choose one or more of layers 1 to {layers}"
            )
        if budget is not None:
            long = budget // len(set(remembering))
        return cls(tuple(long if layer in remembering else 0 for layer in range(1, layers + 1)))

    @classmethod
    def ascending(
        cls, *, layers: int, low: int | None = None, high: int | None = None, budget: int | None = None
    ) -> HorizonSchedule:
        """Growing linearly with depth: from ``low`` to ``high``, or a budget shared as 1 : 2 : ... : L."""
        return cls(_growing(layers, low=low, high=high, budget=budget))

    @classmethod
    def descending(
        cls, *, layers: int, low: int | None = None, high: int | None = None, budget: int | None = None
    ) -> HorizonSchedule:
        """Shrinking linearly with depth: from ``high`` to ``low``, or a budget shared as L : ... : 2 : 1."""
        return cls(_growing(layers, low=low, high=high, budget=budget)[::-1])

    @classmethod
    def uniform(cls, *, layers: int, horizon: int | None = None, budget: int | None = None) -> HorizonSchedule:
        """The same horizon in every layer; 0 is a model without memory."""
        _check_either(budget, layers, horizon=horizon)
        return cls((horizon if budget is None else budget // layers,) * layers)

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

    def after(self, piece_tokens: int) -> HorizonSchedule:
        """What is held after a piece of so many tokens: unlimited layers hold all of it."""
        return HorizonSchedule(tuple(piece_tokens if h is None else h for h in self.horizons), self.rule)

    def limited(self, most_tokens: int) -> HorizonSchedule:
        """No layer sees more than so many tokens before its segment."""
        return HorizonSchedule(
            tuple(most_tokens if h is None else min(h, most_tokens) for h in self.horizons), self.rule
        )

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


def key_value_bytes(slots: int, *, width: int, bytes_per_number: int) -> int:
    """Bytes of the keys and the values of so many tokens in one layer."""
    return slots * 2 * width * bytes_per_number


@dataclass(frozen=True)
class Request:
    """A schedule, and the budget that its text asked for."""

    schedule: HorizonSchedule
    budget_tokens: int | None
    """None where the text gives horizons"""

    @property
    def change(self) -> str | None:
        """What became of a budget that could not be spent to the last token; None where nothing did."""
        spent = self.schedule.budget_tokens
        if self.budget_tokens is None or spent == self.budget_tokens:
            return None
        return f"a budget of {self.budget_tokens:,} tokens became {spent:,}, the most that its form can spend"


def requested(text: str, *, layers: int | None = None) -> Request:
    """What a text asks for; see `HorizonSchedule.parse`, which it is for those who need the schedule alone."""
    words = text.strip()
    rule: Rule = "segment"
    if match := re.fullmatch(r"(.*\S)\s+(segment|sliding)", words, re.DOTALL):
        words, rule = match[1], "sliding" if match[2] == "sliding" else "segment"
    try:
        if match := re.fullmatch(r"([a-z_]+)\s*(?:\((.*)\))?", words):
            horizons, budget = _constructed(match[1], match[2] or "", layers)
        else:
            horizons, budget = tuple(read_runs(words)), None
        if layers is not None and len(horizons) != layers:
            raise RitornelloError(f"it describes {counted(len(horizons), 'layers')}, the model has {layers}")
        return Request(HorizonSchedule(horizons, rule), budget)
    except RitornelloError as error:
        raise RitornelloError(f"schedule {text!r}: {error}") from None


def _check_either(budget: int | None, layers: int, **horizons: int | None) -> None:
    """Refuses horizons beside a budget, neither of them, and a budget that is no number or below the depth."""
    names = " and ".join(horizons)
    present = [value is not None for value in horizons.values()]
    if any(present) if budget is not None else not all(present):
        raise RitornelloError(f"give either {names} or a budget")
    if layers < 1:
        raise RitornelloError("a schedule needs at least one layer")
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
        raise RitornelloError(f"the budget is {budget!r}; it must be whole tokens")
    if budget is not None and budget < layers:
        raise RitornelloError(
            f"a budget of {counted(budget, 'tokens')} is smaller than the depth of {counted(layers, 'layers')}; give "
            f"at least {layers}"
        )


def _growing(layers: int, *, low: int | None, high: int | None, budget: int | None) -> tuple[int, ...]:
    _check_either(budget, layers, low=low, high=high)
    if budget is not None:
        # Largest remainders first: the sum is exact, and as deeper layers win ties no layer passes the one above it.
        whole = layers * (layers + 1) // 2
        horizons = [budget * layer // whole for layer in range(1, layers + 1)]
        remainder = [(budget * layer % whole, layer) for layer in range(1, layers + 1)]
        for _, layer in sorted(remainder, reverse=True)[: budget - sum(horizons)]:
            horizons[layer - 1] += 1
        return tuple(horizons)
    assert low is not None
    assert high is not None
    if low > high or (layers == 1 and low != high):
        raise RitornelloError(
            f"{counted(layers, 'layers')} cannot grow from {low} to {high} tokens; low must not exceed high"
        )
    steps = max(1, layers - 1)
    return tuple(low + (2 * (high - low) * layer + steps) // (2 * steps) for layer in range(layers))


Horizons = tuple[int | None, ...]
Arguments = Mapping[str, str]
Form = Callable[[Arguments, int | None], Horizons]

NO_DEPTH = "it does not say how many layers there are; write a run such as 6x512"


def _constructed(name: str, inside: str, layers: int | None) -> tuple[Horizons, int | None]:
    """The horizons that a constructor's text names, and its budget if it has one."""
    if name not in _CONSTRUCTORS:
        known = ", ".join(_CONSTRUCTORS)
        raise RitornelloError(f"unknown; known are {known}, or a plain list such as 2x4096, 6x512")
    forms = _CONSTRUCTORS[name]
    positional, named = read_arguments(inside)
    names = next((names for names in forms if ("budget" in names) == ("budget" in named)), ())
    by_name = dict(zip(names, positional))
    if len(positional) > len(names) or by_name.keys() & named.keys() or (by_name | named).keys() != set(names):
        wanted = " or ".join(", ".join(names) or "nothing" for names in forms)
        raise RitornelloError(f"it takes {wanted} in its brackets")
    horizons = forms[names](by_name | named, layers)
    return horizons, int(named["budget"]) if "budget" in named else None


def _filled(low: list[int | None], rest: str, layers: int | None) -> Horizons:
    """``low`` and above it ``rest``: a run that says its own length, or one horizon for all layers that are left."""
    high = read_runs(rest)
    if "x" in rest:
        return tuple(low + high)
    if layers is None:
        raise RitornelloError(NO_DEPTH)
    if len(low) > layers:
        raise RitornelloError(f"it describes {counted(len(low), 'layers')}, the model has {layers}")
    return tuple(low + high * (layers - len(low)))


def _by(constructor: Callable[..., HorizonSchedule]) -> Form:
    """The form whose arguments are those of a constructor."""

    def form(arguments: Arguments, layers: int | None) -> Horizons:
        if layers is None:
            raise RitornelloError(NO_DEPTH)
        values: dict[str, Any] = {}
        for name, text in arguments.items():
            if name == "layers":
                values["remembering"] = read_choice(text, layers)
            else:
                values["n_long" if name == "long_layers" else name] = read_whole(name, text)
        return constructor(layers=layers, **values).horizons

    return form


# Every kind by its name, and the arguments that it takes in brackets: horizons first, then a budget.
_CONSTRUCTORS: dict[str, dict[tuple[str, ...], Form]] = {
    "unlimited": {(): _by(HorizonSchedule.unlimited)},
    "perceiver_ar": dict.fromkeys([("long",), ("budget",)], _by(HorizonSchedule.perceiver_ar)),
    "two_scale": {
        ("long", "short"): lambda arguments, layers: _filled(read_runs(arguments["long"]), arguments["short"], layers),
        ("budget", "long_layers", "short"): _by(HorizonSchedule.two_scale),
    },
    "binary": dict.fromkeys([("long", "layers"), ("budget", "layers")], _by(HorizonSchedule.binary)),
    "ascending": dict.fromkeys([("low", "high"), ("budget",)], _by(HorizonSchedule.ascending)),
    "descending": dict.fromkeys([("low", "high"), ("budget",)], _by(HorizonSchedule.descending)),
    "uniform": {
        ("horizon",): lambda arguments, layers: _filled([], arguments["horizon"], layers),
        ("budget",): _by(HorizonSchedule.uniform),
    },
}
