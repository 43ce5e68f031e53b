"""Errors that are the user's to mend: the command line prints them as one line and exits with code 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager


class RitornelloError(Exception):
    """Bad input or a bad place to write to. The message names the thing, what is wrong and what to do."""


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Says in one line what to install where a package is missing that is imported inside."""
    try:
        yield
    except ModuleNotFoundError as missing:
        name = f"{what} needs the package {missing.name}"
        raise RitornelloError(f"{name}; install it with: pip install {extra}") from None


def counted(count: int, plural: str) -> str:
    """What a message counts: ``1 pedal never lifted``, ``2,001 pedals never lifted``. The plural ends with an ``s``."""
    singular = re.sub(r"^((?:\w+ ){0,2}?\w+?)(?:(ss)es|s)\b", r"\1\2", plural)
    return f"{count:,} {singular if count == 1 else plural}"


def check_limits(**named: tuple[float | None, float, float]) -> None:
    """Raises RitornelloError for a value that lies outside its limits, each as (value, low, high); None is no value."""
    for name, (value, low, high) in named.items():
        if value is not None and not low <= value <= high:
            raise RitornelloError(f"{name.replace('__', ' ')} is {value}; it must lie between {low:,} and {high:,}")
