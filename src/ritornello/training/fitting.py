"""What a machine bears: whether a training's memories fit it, and in which precision it multiplies matrices faster.

Some processors have bfloat16 units, some only claim to.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError, counted
from ritornello.evaluation import LANES
from ritornello.horizons.costs import BYTES_PER_NUMBER
from ritornello.models.config import ModelConfig
from ritornello.training.recipes import Recipe
from ritornello.workers import peak_resident_bytes

Precision = Literal["fp32", "bf16"]

ROWS, MEASURED_S = 2048, 0.1  # of tokens in a product, and of time for each precision
WORTH_IT = 1.5  # softmax and norms stay in float32, and casting costs
LEAST_WIDTH = 128  # below it products are too small a part of a step, and too short to be told apart


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

        A step holds the state before it and the one after. Only a CPU attends to a memory where it lies: a GPU joins it
        with the segment's keys, and keeps that for the backward pass.
        """
        copies = 2 if self.device.type == "cpu" else 3
        resting = self.state_bytes(self.lanes, self.piece_tokens)
        step = (self.interleave - 1 + copies) * resting
        return max(step, self.interleave * resting + copies * self.state_bytes(LANES, self.validation_tokens))

    def state_bytes(self, lanes: int, tokens: int) -> int:
        """Bytes of the state of lanes that have read pieces of so many tokens, in whole segments."""
        return lanes * self.model.lane_bytes(tokens, bytes_per_number=BYTES_PER_NUMBER[self.precision])

    def check_fit(self, free: int | None) -> None:
        """Refuses memories that are larger than what is free (`free_bytes`).

        Raises:
            RitornelloError: with the bytes that are needed and those that are free.
        """
        if free is not None and self.nbytes > free:
            raise RitornelloError(
                f"{self.model.describe()}: its memories would take {_size(self.nbytes)} in {self.precision} for "
                f"pieces of up to {self.piece_tokens:,} tokens in {counted(self.lanes * self.interleave, 'lanes')}, "
                f"{_size(free)} are free; shorten horizons, or take fewer lanes or shorter pieces"
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


def fitting(recipe: Recipe, model: ModelConfig, corpus: Corpus, device: torch.device) -> Recipe:
    """The recipe in as many lanes as there are pieces to read, and half of the free memory can hold, at least one."""
    pieces = len(corpus.pieces("train"))
    interleave = 1 if recipe.model.crops else max(1, min(recipe.interleave, pieces // recipe.lanes))
    fitted = replace(recipe, interleave=interleave, lanes=min(recipe.lanes, 1 << (pieces.bit_length() - 1)))
    free = free_bytes(device)
    while free is not None and fitted.lanes > 1:
        if memories_of(model, fitted, corpus, device=device, precision="fp32").nbytes <= free / 2:
            break
        fitted = replace(fitted, lanes=fitted.lanes // 2)
    return fitted


def check_fit_at_once(needed: Sequence[int], jobs: int, free: int | None) -> None:
    """Refuses runs side by side if any ``jobs`` of their memories, in bytes, are together larger than what is free.

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
    return peak_resident_bytes() or 0


def _size(count: int) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if count >= s), (1e3, "kB"))
    return f"{count / scale:,.1f} {unit}"


@cache
def faster_precision(device: torch.device, *, width: int) -> Precision:
    """bf16 where a layer's product (ROWS, C) x (C, 3 C) is at least `WORTH_IT` times faster in it, else fp32.

    Narrow models stay in fp32 on a CPU.
    """
    if device.type == "cpu" and width < LEAST_WIDTH:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    seconds = [_seconds(width, dtype) for dtype in (torch.float32, torch.bfloat16)]
    return "bf16" if seconds[0] > WORTH_IT * seconds[1] else "fp32"


def _seconds(width: int, dtype: torch.dtype) -> float:
    """The least time of one product on the CPU."""
    x, weight = torch.ones(ROWS, width, dtype=dtype), torch.ones(3 * width, width, dtype=dtype)
    x @ weight.T  # the first sets things up
    began_s, times = time.perf_counter(), []
    while time.perf_counter() - began_s < MEASURED_S:
        start_s = time.perf_counter()
        x @ weight.T
        times.append(time.perf_counter() - start_s)
    return min(times)
