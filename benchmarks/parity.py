"""Whether a device computes what the CPU computes: logits and gradients under every kind of schedule.

    python benchmarks/parity.py --device cuda

The reference is the plain model in float32 on the CPU. Lanes read random tokens over several segments; one lane starts
a new piece half-way. Exits with 1 if a schedule differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import copy
import sys

import torch
from torch import Tensor

from ritornello import codec
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR, DSMRConfig

SCHEDULES = (
    "two_scale(long=2x256, short=4x64)",
    "uniform(6x64)",
    "6x0",
    "unlimited, 5x0",
    "6xunlimited",
    "64, 0, 128, 0, 256, 0 sliding",
)
LANES, SEGMENTS, SEGMENT_TOKENS = 4, 6, 64


def main() -> None:
    """Compares every schedule and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative error allowed")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    worst = 0.0
    print(f"{'schedule':36} {'logits':>10} {'gradients':>10}   relative error, {arguments.device} against cpu")
    for text in SCHEDULES:
        errors = compare(HorizonSchedule.parse(text, layers=6), torch.device(arguments.device))
        worst = max(worst, *errors)
        print(f"{text:36} {errors[0]:10.2e} {errors[1]:10.2e}")
    if not worst <= arguments.tolerance:
        sys.exit(f"parity failed: {worst:.2e} is above {arguments.tolerance:.0e}")


def compare(schedule: HorizonSchedule, device: torch.device) -> tuple[float, float]:
    """Relative errors ||device - cpu|| / ||cpu|| of logits and of all gradients."""
    torch.manual_seed(0)
    reference = DSMR(DSMRConfig(schedule, width=96, heads=3, mlp_width=160, segment_tokens=SEGMENT_TOKENS))
    for parameter in reference.parameters():
        if not parameter.any():  # zero at initialisation: it would hide what attention finds
            torch.nn.init.normal_(parameter, std=0.1)
    other = copy.deepcopy(reference).to(device)
    tokens = torch.randint(0, codec.N_EVENTS, (LANES, SEGMENTS * SEGMENT_TOKENS))
    weights = torch.randn(LANES, SEGMENTS * SEGMENT_TOKENS, codec.N_EVENTS)
    one, two = run(reference, tokens, weights), run(other, tokens.to(device), weights.to(device))
    return relative_error(one[0], two[0]), relative_error(one[1], two[1])


def run(model: DSMR, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """All logits, and the gradient of their weighted mean."""
    state, parts = model.initial_state(LANES), []
    for segment, piece in enumerate(tokens.split(SEGMENT_TOKENS, dim=1)):
        if segment == SEGMENTS // 2:
            state = model.restart(state, torch.arange(LANES) == 1)
        logits, state = model(piece, state)
        parts.append(logits)
    logits = torch.cat(parts, dim=1)
    (logits * weights).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return logits.detach().cpu(), gradients.cpu()


def relative_error(reference: Tensor, other: Tensor) -> float:
    """Of two tensors of one shape, in float64."""
    return float((reference.double() - other.double()).norm() / reference.double().norm())


if __name__ == "__main__":
    main()
