"""Whether the memories of a schedule fit a machine, said before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ritornello.errors import RitornelloError
from ritornello.models.dsmr import DSMRConfig

COPIES = 2  # a step holds the state before it, for the backward pass, and the one after


def check_fits(model: DSMRConfig, *, lanes: int, piece_tokens: int, device: torch.device, groups: int = 1) -> None:
    """Refuses memories that are larger than what is free.

    Args:
        model: sizes and schedule; numbers are counted in float32.
        lanes: pieces read side by side.
        groups: of as many lanes, which take turns.
        piece_tokens: length of the longest piece, which unlimited layers remember whole.
        device: where the memories will be.

    Raises:
        RitornelloError: with the bytes that are needed and those that are free.
    """
    needed, free = memory_bytes(model, lanes=lanes, piece_tokens=piece_tokens, groups=groups), free_bytes(device)
    if free is not None and needed > free:
        raise RitornelloError(
            f"schedule {model.schedule}: its memories would take {_size(needed)} for pieces of up to "
            f"{piece_tokens:,} tokens in {lanes * groups} lanes, {_size(free)} are free; shorten horizons or take "
            "fewer lanes"
        )


def check_fits_at_once(needed: Sequence[int], jobs: int, device: torch.device) -> None:
    """Refuses runs side by side whose memories are together larger than what is free.

    Args:
        needed: each run's `memory_bytes`; whichever ``jobs`` of them are largest may meet.
        jobs: runs at a time.
        device: where the memories will be.

    Raises:
        RitornelloError: with the bytes that are needed and those that are free.
    """
    largest, free = sum(sorted(needed)[-jobs:]), free_bytes(device)
    if free is not None and largest > free:
        raise RitornelloError(
            f"jobs is {jobs}: the memories of as many runs would take up to {_size(largest)}, {_size(free)} are "
            "free; run fewer at a time"
        )


def memory_bytes(model: DSMRConfig, *, lanes: int, piece_tokens: int, groups: int = 1) -> int:
    """What the memories of a training take at their fullest; arguments as of `check_fits`."""
    slots = sum(piece_tokens if h is None else min(h, piece_tokens) for h in model.schedule.horizons)
    return (COPIES + groups - 1) * slots * 2 * model.width * 4 * lanes


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes else None


def _size(count: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if count >= s), (1e3, "kB"))
    return f"{count / scale:,.1f} {unit}"
