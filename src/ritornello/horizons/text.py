"""The texts of schedules: runs, arguments in brackets, choices of layers; and the rows of the DSMR study."""

from __future__ import annotations

import re

from ritornello.errors import RitornelloError, counted


def read_runs(text: str) -> list[int | None]:
    """``2x4096, 0, unlimited`` -> a horizon per layer, lowest first; None = unlimited."""
    horizons: list[int | None] = []
    for part in (part.strip() for part in text.strip().strip("[]()").split(",")):
        match = re.fullmatch(r"(?:([0-9]{1,18})\s*x\s*)?([0-9]{1,18}|unlimited)", part)
        if not match:
            raise RitornelloError(f"{part!r} is not a horizon: write whole tokens, a run such as 2x4096, or unlimited")
        count = int(match[1] or 1)
        if not 1 <= count <= 1000:
            raise RitornelloError(f"{part!r} describes {counted(count, 'layers')}; a run has 1 to 1000")
        horizons += [None if match[2] == "unlimited" else int(match[2])] * count
    return horizons


def read_arguments(inside: str) -> tuple[list[str], dict[str, str]]:
    """What stands in a constructor's brackets: arguments without a name, and those with one."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in inside.split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals:
            positional.append(name)
        elif name in named:
            raise RitornelloError(f"{name} is given twice")
        else:
            named[name] = value
    return positional, named


def read_whole(name: str, text: str) -> int:
    """A whole number of tokens or layers."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise RitornelloError(f"{name} is {text!r}: write a whole number, not below 0")
    return int(text)


def read_choice(text: str, layers: int) -> list[int]:
    """``1-4``, ``1+3+5``, ``1-2+8``, ``odd`` or ``even`` -> layers counted from 1, the lowest."""
    if text in ("odd", "even"):
        return list(range(1 if text == "odd" else 2, layers + 1, 2))
    chosen: list[int] = []
    for part in text.split("+"):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last:
            raise RitornelloError(f"layers is {text!r}: write a choice such as 1-4, 1+3+5, odd or even")
        if last > layers:
            raise RitornelloError(f"layers is {text!r}, the model has {layers}")
        chosen += range(first, last + 1)
    return chosen


def study_texts(*, layers: int, budget_tokens: int) -> dict[str, str]:
    """The text of every row by its name, for `HorizonSchedule.parse` with the same ``layers``.

    Two-scale: a quarter of the layers is long; every other has a quarter of what it would have under uniform horizons.
    """
    half = max(1, layers // 2)
    budget = f"budget={budget_tokens}"
    return {
        "full memory": "unlimited",
        "Perceiver-AR-like": f"perceiver_ar({budget})",
        "two-scale": f"two_scale({budget}, long_layers={max(1, layers // 4)}, short={budget_tokens // (4 * layers)})",
        "binary, low layers": f"binary({budget}, layers=1-{half})",
        "binary, high layers": f"binary({budget}, layers={min(half + 1, layers)}-{layers})",
        "binary, alternating": f"binary({budget}, layers=odd)",
        "binary, sliding": f"binary({budget}, layers=odd) sliding",
        "ascending": f"ascending({budget})",
        "descending": f"descending({budget})",
        "uniform": f"uniform({budget})",
    }
