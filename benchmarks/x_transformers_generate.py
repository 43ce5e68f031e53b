"""Playing speed beside x-transformers' cached generation, the same size of model, on the same machine in the same run.

    pip install -c constraints.txt -r benchmarks/requirements.txt
    python benchmarks/x_transformers_generate.py

Ours has the base recipe's sizes and schedule, its memories full; x-transformers has the same width, depth and heads and
about as many weights, its cache as long as the context named. Weights are random. Ours draws every event under the
grammar; x-transformers is timed by its own ``generate``: that of some tokens behind a context, less that of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ritornello import codec
from ritornello.bench.generation import Setting, measure
from ritornello.bench.meter import answer, in_fresh_process, resident_bytes
from ritornello.checkpoint import save_checkpoint
from ritornello.models.dsmr import DSMR, DSMRConfig
from ritornello.training.recipes import base

CONTEXTS = (512, 4096, 16_384)
ENGINES = ("onnx", "onnx-fp32", "torch")


def main() -> None:
    """Measures in turns and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=1000, help="timed of ours")
    parser.add_argument("--their-tokens", type=int, default=24, help="timed of x-transformers")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        answer(lambda: x_transformers_here(**json.loads(arguments.child)))
        return
    if find_spec("x_transformers") is None:
        sys.exit("x_transformers is missing; install it with: pip install -r benchmarks/requirements.txt")
    rounds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_base_model(Path(folder))
        for _ in range(arguments.rounds):
            for engine in ENGINES:
                setting = Setting(folder, engine, arguments.tokens, position=10_000, threads=arguments.threads)
                rounds.setdefault(f"ritornello, {engine}", []).append(measure(setting).figures())
            for context in arguments.contexts:
                threads = arguments.threads or torch.get_num_threads()
                order = json.dumps({"context": context, "tokens": arguments.their_tokens, "threads": threads})
                found = in_fresh_process([str(Path(__file__)), "--child", order])
                rounds.setdefault(f"x-transformers, context {context:,}", []).append(found)
    rows = [
        {
            "name": name,
            "tokens_per_s": statistics.median(one["tokens_per_s"] for one in found),
            "peak_bytes": statistics.median(one["peak_bytes"] for one in found),
            "rounds": found,
        }
        for name, found in rounds.items()
    ]
    for row in rows:
        row["first_over_this"] = rows[0]["tokens_per_s"] / row["tokens_per_s"]
    if arguments.json:
        versions = {name: version(name) for name in ("torch", "onnxruntime", "x-transformers")}
        print(json.dumps({**versions, "models": rows}, indent=1))
        return
    print(f"{'model':34} {'tokens/s':>9} {'rounds':>13} {'first over this':>16} {'peak MB':>8}")
    for row in rows:
        speeds = [one["tokens_per_s"] for one in row["rounds"]]
        print(
            f"{row['name']:34} {row['tokens_per_s']:9,.1f} {min(speeds):6,.1f} {max(speeds):6,.1f} "
            f"{row['first_over_this']:16.2f} {row['peak_bytes'] / 1e6:8,.0f}"
        )
    first = rows[0]["rounds"][0]
    print(
        f"first: {first['touched_bytes'] / 1e6:.1f} MB a token, {first['bandwidth_share']:.0%} of the "
        f"{first['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s measured beside it; p50 {first['p50_ms']:.2f} ms, p99 "
        f"{first['p99_ms']:.2f} ms; first note after {first['first_note_s']:.2f} s"
    )


def save_base_model(folder: Path) -> None:
    """A model of the base recipe's sizes, its weights random."""
    config = base().model
    assert isinstance(config, DSMRConfig)
    torch.manual_seed(0)
    model = DSMR(config)
    family, described = config.family, config.to_json()
    save_checkpoint(
        folder, family=family, config=described, trained_on={}, run={}, tensors={"weights": model.state_dict()}
    )


def x_transformers_here(*, context: int, tokens: int, threads: int) -> dict[str, float]:
    """In this process: tokens/s behind a full cache of ``context`` tokens."""
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    config = base().model
    torch.set_num_threads(threads)
    layers = Decoder(
        dim=config.width,
        depth=config.schedule.layers,
        heads=config.heads,
        attn_dim_head=config.width // config.heads,
        attn_flash=True,
        rotary_pos_emb=True,
        use_rmsnorm=True,
        ff_glu=True,
        ff_swish=True,
        ff_mult=config.mlp_width / config.width,
        ff_no_bias=True,
    )
    model = TransformerWrapper(
        num_tokens=codec.VOCABULARY_SIZE, max_seq_len=context + tokens + 1, use_abs_pos_emb=False, attn_layers=layers
    ).eval()
    wrapper = AutoregressiveWrapper(model)
    prompt = torch.randint(0, codec.N_EVENTS, (1, context))

    def seconds(count: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            wrapper.generate(prompt, count, cache_kv=True)
        return time.perf_counter() - start

    seconds(1)
    spent = min(seconds(1 + tokens) for _ in range(2)) - min(seconds(1) for _ in range(2))
    return {
        "tokens_per_s": tokens / spent,
        "peak_bytes": resident_bytes("VmHWM"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


if __name__ == "__main__":
    main()
