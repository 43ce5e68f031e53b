"""Training speed and peak memory beside lucidrains' perceiver-ar-pytorch: Perceiver AR with one cross-attention.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/perceiver_ar_peer.py

The same width, heads, self-attention layers, context and latents, about as many weights; random tokens, float32, no
dropout of the context, fused AdamW for both. Each in fresh processes, in turns, --rounds times; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ritornello import codec
from ritornello.bench.meter import Meter, answer, in_fresh_process
from ritornello.likelihood import token_nats
from ritornello.models.perceivers import Perceiver, PerceiverConfig

Forward = Callable[[Tensor], Tensor]  # (B, N) ids -> (B, Q, V) logits
MODELS = ("ritornello", "perceiver-ar-pytorch")
WIDTH, HEADS, LAYERS, LATENTS = 256, 4, 7, 512


def main() -> None:
    """Measures both in turns and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="measured in each round, after one to warm up")
    parser.add_argument("--context", type=int, default=8192, help="N, in tokens")
    parser.add_argument("--lanes", type=int, default=2, help="crops of a step")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(lambda: measured_here(**json.loads(arguments.child)))
        return
    jobs = {
        name: {"name": name, "steps": arguments.steps, "context": arguments.context, "lanes": arguments.lanes}
        for name in MODELS
    }
    rounds = [
        {name: in_fresh_process([str(Path(__file__)), "--child", json.dumps(job)]) for name, job in jobs.items()}
        for _ in range(arguments.rounds)
    ]
    rows = {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]} for name in MODELS
    }
    ours, theirs = (rows[name] for name in MODELS)
    ratios = {
        "tokens_per_s": ours["tokens_per_s"] / theirs["tokens_per_s"],
        "peak_bytes": ours["peak_bytes"] / theirs["peak_bytes"],
    }
    if arguments.json:
        versions = {"torch": torch.__version__, "perceiver_ar_pytorch": version("perceiver-ar-pytorch")}
        print(json.dumps({**versions, **vars(arguments), "models": rows, "ratios": ratios, "rounds": rounds}, indent=1))
        return
    print(f"{'model':22} {'weights':>10} {'latents/s':>10} {'peak MB':>8}")
    for name, row in rows.items():
        print(f"{name:22} {row['parameters']:10,.0f} {row['tokens_per_s']:10,.0f} {row['peak_bytes'] / 1e6:8,.1f}")
    print(f"ours over theirs: speed {ratios['tokens_per_s']:.2f}, peak memory {ratios['peak_bytes']:.2f}")


def measured_here(*, name: str, steps: int, context: int, lanes: int) -> dict[str, Any]:
    """One model in this process: predicted tokens/s by the median step, and peak memory above idle."""
    torch.manual_seed(0)
    meter = Meter(torch.device("cpu"))
    model, logits_of = (ours if name == MODELS[0] else theirs)(context)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    times = []
    for _ in range(steps + 1):
        tokens = torch.randint(0, codec.N_EVENTS, (lanes, context + 1))
        began_s = time.perf_counter()
        token_nats(logits_of(tokens[:, :-1]), tokens[:, -LATENTS:], None).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began_s)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_s": lanes * LATENTS / statistics.median(times[1:]),
        "peak_bytes": meter.peak_bytes(),
    }


def ours(context: int) -> tuple[nn.Module, Forward]:
    """Perceiver AR of this project."""
    model = Perceiver(PerceiverConfig(LAYERS, WIDTH, HEADS, 704, context, LATENTS, (None,), LATENTS // 2))
    return model, lambda tokens: model.crop(tokens, torch.full((len(tokens),), context - LATENTS))


def theirs(context: int) -> tuple[nn.Module, Forward]:
    """The peer, with about as many weights."""
    from perceiver_ar_pytorch import PerceiverAR

    model = PerceiverAR(
        num_tokens=codec.VOCABULARY_SIZE,
        dim=WIDTH,
        depth=LAYERS,
        heads=HEADS,
        dim_head=WIDTH // HEADS,
        max_seq_len=context,
        cross_attn_seq_len=context - LATENTS,
        cross_attn_dropout=0.0,
    )
    return model, lambda tokens: model(tokens)[:, -LATENTS:]


if __name__ == "__main__":
    main()
