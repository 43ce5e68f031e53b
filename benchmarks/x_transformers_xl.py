"""Training speed and peak memory beside x-transformers' Transformer-XL, which remembers 4,096 tokens in every layer.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/x_transformers_xl.py

The same width, depth, heads, batch and segment, about as many weights; random tokens, full memories, float32.
Each model is measured as ``ritornello bench train`` does it, in a fresh process, in turns, --rounds times; medians are
shown. x-transformers is given what is fastest there: scaled-dot-product attention, rotary positions, fused AdamW.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ritornello import codec
from ritornello.bench.meter import answer, in_fresh_process
from ritornello.bench.training import Measurement, Setting, Trainee, as_measurement, measure, measure_schedule
from ritornello.horizons import HorizonSchedule

DEPTH, SEGMENTS_REMEMBERED = 8, 8


def main() -> None:
    """Measures the three models in turns and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="measured in each round")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--segment", type=int, default=512, help="tokens; memories are of eight segments or of one")
    parser.add_argument("--piece", type=int, default=16_384, help="tokens that full memory reads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(lambda: measured_here(Setting(**json.loads(arguments.child))))
        return
    if find_spec("x_transformers") is None:
        sys.exit("x_transformers is missing; install it with: pip install -r benchmarks/requirements.txt")
    setting = Setting(
        width=arguments.width,
        segment_tokens=arguments.segment,
        piece_tokens=arguments.piece,
        steps=arguments.steps,
        device=arguments.device,
    )
    long = SEGMENTS_REMEMBERED * arguments.segment
    two_scale = HorizonSchedule.two_scale(layers=DEPTH, n_long=2, long=long, short=arguments.segment)
    models: dict[str, Callable[[], Measurement]] = {
        f"two-scale, {two_scale}": lambda: measure_schedule(two_scale, setting),
        "full memory": lambda: measure_schedule(HorizonSchedule.unlimited(layers=DEPTH), setting),
        f"x-transformers' XL, {DEPTH}x{long}": lambda: x_transformers_xl(setting),
    }
    measured: dict[str, list[Measurement]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, measure_once in models.items():
            measured[name].append(measure_once())
    show(measured, setting, arguments.json)


def x_transformers_xl(setting: Setting) -> Measurement:
    """Measured in a process of its own."""
    return as_measurement(in_fresh_process([str(Path(__file__)), "--child", json.dumps(asdict(setting))]))


def measured_here(setting: Setting) -> dict[str, Any]:
    """In this process."""
    return asdict(measure(xl, setting, full_tokens=SEGMENTS_REMEMBERED * setting.segment_tokens))


def xl(setting: Setting) -> Trainee:
    """The model, with about as many weights as ours has."""
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(
        dim=setting.width,
        depth=DEPTH,
        heads=setting.heads,
        attn_dim_head=setting.width // setting.heads,
        attn_flash=True,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_mult=2.75,
        ff_no_bias=True,
    )
    model = TransformerWrapper(
        num_tokens=codec.VOCABULARY_SIZE,
        max_seq_len=setting.segment_tokens,
        max_mem_len=SEGMENTS_REMEMBERED * setting.segment_tokens,
        use_abs_pos_emb=False,
        attn_layers=layers,
    ).to(setting.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def update() -> None:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return Trainee(
        parameters=list(model.parameters()),
        start=lambda: None,
        forward=lambda tokens, memories: model(tokens, mems=memories, return_mems=True),
        update=update,
        state_bytes=lambda memories: sum(memory.nbytes for memory in memories),
    )


def show(measured: dict[str, list[Measurement]], setting: Setting, as_json: bool) -> None:
    """Medians of the rounds, and ratios of the first model to each."""

    def row(name: str) -> dict[str, Any]:
        speeds = [one.tokens_per_s for one in measured[name]]
        peaks = [one.peak_bytes for one in measured[name]]
        return {
            "name": name,
            "parameters": measured[name][0].parameters,
            "tokens_per_s": statistics.median(speeds),
            "slowest_round_tokens_per_s": min(speeds),
            "fastest_round_tokens_per_s": max(speeds),
            "peak_bytes": statistics.median(peaks),
            "state_bytes": measured[name][0].state_bytes,
            "rounds": [asdict(one) for one in measured[name]],
        }

    rows = [row(name) for name in measured]
    first = rows[0]
    for other in rows:
        other["first_speed_ratio"] = first["tokens_per_s"] / other["tokens_per_s"]
        other["first_peak_ratio"] = first["peak_bytes"] / other["peak_bytes"]
    if as_json:
        versions = {"torch": torch.__version__, "x_transformers": version("x-transformers")}
        print(json.dumps({**asdict(setting), "depth": DEPTH, **versions, "models": rows}, indent=1))
        return
    print(f"{'model':34} {'weights':>10} {'tokens/s':>9} {'rounds':>15} {'ratio':>6} {'peak MB':>8} {'ratio':>6}")
    for one in rows:
        rounds = f"{one['slowest_round_tokens_per_s']:,.0f} {one['fastest_round_tokens_per_s']:,.0f}"
        print(
            f"{one['name']:34} {one['parameters']:10,} {one['tokens_per_s']:9,.0f} {rounds:>15} "
            f"{one['first_speed_ratio']:6.2f} {one['peak_bytes'] / 1e6:8,.1f} {one['first_peak_ratio']:6.2f}"
        )
    print("ratios: the first model's figure over this one's; peaks are above the idle process")


if __name__ == "__main__":
    main()
