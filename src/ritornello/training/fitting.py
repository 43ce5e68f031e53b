"""Memory: whether that of a training fits a machine, said before it starts; what is free, and what was taken."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.evaluation import LANES
from ritornello.horizons.costs import BYTES_PER_NUMBER
from ritornello.models.config import ModelConfig
from ritornello.training.precision import Precision
from ritornello.training.recipes import Recipe


@dataclass(frozen=True)
class Memories:
    """What a training remembers; weights, activations and optimisers are not counted."""

    model: ModelConfig
    lanes: int
    """pieces read side by side"""
    piece_tokens: int
    """length of the longest piece, which unlimited layers remember whole"""
    device: torch.device
    interleave: int = 1
    """of as many lanes, which take turns"""
    validation_tokens: int = 0
    """length of the longest validation piece, read whole while all groups rest; 0 for none"""
    precision: Precision = "fp32"
    """of keys and values, as of matrix products"""

    @property
    def nbytes(self) -> int:
        """Bytes at their fullest, in a step or in a validation.

        A step holds the state before it and the one after. Only the CPU's way in full precision attends to a memory
        where it lies: the others join it with the segment's keys, and keep that for the backward pass.
        """
        in_place = self.device.type == "cpu" and self.precision == "fp32"
        copies, resting = 2 if in_place else 3, self.state_bytes(self.lanes, self.piece_tokens)
        step = (self.interleave - 1 + copies) * resting
        return max(step, self.interleave * resting + copies * self.state_bytes(LANES, self.validation_tokens))

    def state_bytes(self, lanes: int, tokens: int) -> int:
        """Bytes of the state of lanes that have read pieces of so many tokens, in whole segments."""
        return lanes * self.model.lane_bytes(tokens, bytes_per_number=BYTES_PER_NUMBER[self.precision])

    def check_fit(self, free: int | None) -> None:
        """Refuses memories that are larger than what is free.

        Args:
            free: `free_bytes` of the device; None where the system does not say.

        Raises:
            RitornelloError: with the bytes that are needed and those that are free.
        """
        if free is not None and self.nbytes > free:
            raise RitornelloError(
                f"{self.model.describe()}: its memories would take {_size(self.nbytes)} in {self.precision} for "
                f"pieces of up to {self.piece_tokens:,} tokens in {self.lanes * self.interleave} lanes, {_size(free)} "
                "are free; shorten horizons, or take fewer lanes or shorter pieces"
            )


def memories_of(
    model: ModelConfig, recipe: Recipe, corpus: Corpus, *, device: torch.device, precision: Precision
) -> Memories:
    """Those of a recipe's training of a model, which is the recipe's own unless it began as another."""
    train, validation = (max(piece.tokens for piece in corpus.pieces(split)) for split in ("train", "validation"))
    return Memories(
        model,
        lanes=recipe.lanes,
        piece_tokens=min(train, recipe.piece_tokens or train),
        device=device,
        interleave=recipe.interleave,
        validation_tokens=validation,
        precision=precision,
    )


def check_fit_at_once(needed: Sequence[int], jobs: int, free: int | None) -> None:
    """Refuses runs side by side whose memories are together larger than what is free.

    Args:
        needed: bytes of each run's memories; whichever ``jobs`` of them are largest may meet.
        jobs: runs at a time.
        free: `free_bytes` of the device; None where the system does not say.

    Raises:
        RitornelloError: with the bytes that are needed and those that are free.
    """
    largest = sum(sorted(needed)[-jobs:])
    if free is not None and largest > free:
        raise RitornelloError(
            f"jobs is {jobs}: the memories of as many runs would take up to {_size(largest)}, {_size(free)} are "
            "free; run fewer at a time"
        )


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


def memory_peak_bytes(device: torch.device) -> int:
    """The most that the device's allocator has held; on a CPU, the most that the process has had resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is in KiB


def _size(count: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if count >= s), (1e3, "kB"))
    return f"{count / scale:,.1f} {unit}"
