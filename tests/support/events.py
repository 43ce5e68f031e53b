"""Events by what they are, as the design numbers them."""

from __future__ import annotations


def on(pitch: int) -> int:
    return pitch


def off(pitch: int) -> int:
    return 128 + pitch


def shift(steps: int) -> int:
    return 255 + steps


def velocity(bin: int) -> int:
    return 356 + bin
