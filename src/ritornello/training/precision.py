"""In which precision a machine multiplies matrices faster: some processors have bfloat16 units, some only claim to."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]

ROWS, MEASURED_S = 2048, 0.1  # of tokens in a product, and of time for each precision
WORTH_IT = 1.5  # softmax and norms stay in float32, and casting costs
LEAST_WIDTH = 128  # below it products are too small a part of a step, and too short to be told apart


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
