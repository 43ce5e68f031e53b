"""Whether a device computes what the reference computes: logits and gradients under every kind of schedule.

The reference is plain attention in float32 on the CPU; the other is the model as it reads on the device, in tiles on a
CPU. (How a GPU trains has a gate of its own, in ``training/fast.py``.) Lanes read random tokens over several segments,
until the horizons are full and beyond; two of them start new pieces on the way, each at another time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from ritornello import codec
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.text import study_texts
from ritornello.likelihood import autocast
from ritornello.models.attention import plain
from ritornello.models.config import DSMRConfig
from ritornello.models.dsmr import DSMR
from ritornello.training.fitting import Precision

LAYERS, WIDTH, HEADS, MLP_WIDTH = 5, 64, 2, 96
LANES, SEGMENTS, SEGMENT_TOKENS = 3, 6, 64
RESTARTS = {3: 1, 4: 2}  # the segment before which a lane starts a new piece
BUDGET_TOKENS = 202  # no multiple of anything here, and the longest horizon is full before the last segment
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 2e-2}  # one key too many or too few is about 3e-2


@dataclass(frozen=True)
class Parity:
    """Relative errors ||device - reference|| / ||reference||."""

    logits: float
    gradients: float
    """of all parameters, as one vector"""

    def within(self, tolerance: float) -> bool:
        """False for errors that are no number, too."""
        return self.logits <= tolerance and self.gradients <= tolerance


def parity_schedules() -> dict[str, HorizonSchedule]:
    """Every kind of schedule under both rules, by name."""
    texts = study_texts(layers=LAYERS, budget_tokens=BUDGET_TOKENS)
    texts |= {"no memory": "uniform(0)", "full memory low": "unlimited, 4x0", "long over short": "2x7, 2x130, 0"}
    for name, text in list(texts.items()):
        if not text.endswith("sliding"):
            texts[f"{name}, sliding"] = f"{text} sliding"
    del texts["binary, sliding"]  # the same as its alternating sister under that rule
    return {name: HorizonSchedule.parse(text, layers=LAYERS) for name, text in texts.items()}


def compare(schedule: HorizonSchedule, device: torch.device, *, precision: Precision = "fp32", seed: int = 0) -> Parity:
    """Compares one schedule, of any depth."""
    torch.manual_seed(seed)
    config = DSMRConfig(schedule, width=WIDTH, heads=HEADS, mlp_width=MLP_WIDTH, segment_tokens=SEGMENT_TOKENS)
    reference = DSMR(config)
    for parameter in reference.parameters():
        if not parameter.any():  # zero at initialisation: it would hide what attention finds
            torch.nn.init.normal_(parameter, std=0.1)
    on_device = copy.deepcopy(reference).to(device)
    reference.attention = plain
    tokens = torch.randint(0, codec.N_EVENTS, (LANES, SEGMENTS * SEGMENT_TOKENS))
    weights = torch.randn(LANES, SEGMENTS * SEGMENT_TOKENS, codec.N_EVENTS)
    expected = _read(reference, tokens, weights, "fp32")
    results = _read(on_device, tokens.to(device), weights.to(device), precision)
    pairs = [(a.double(), b.double()) for a, b in zip(expected, results)]
    return Parity(*(float((a - b).norm() / a.norm()) for a, b in pairs))


def _read(model: DSMR, tokens: Tensor, weights: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """All logits, and the gradient of their weighted mean."""
    state, parts = model.initial_state(LANES), []
    for segment, piece in enumerate(tokens.split(SEGMENT_TOKENS, dim=1)):
        if segment in RESTARTS:
            state = model.restart(state, torch.arange(LANES) == RESTARTS[segment])
        with autocast(tokens.device, precision):
            logits, state = model(piece, state)
        parts.append(logits)
    logits = torch.cat(parts, dim=1)
    (logits * weights).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return logits.detach().cpu(), gradients.cpu()
