"""The fast path on a GPU: is it right under several schedules, and how fast is it beside the plain way?

    python benchmarks/fast_path.py data/asap --recipe base --steps 100

First the gate that every training passes, at the recipe's size, for its schedule and three others: relative errors of
nats and gradients beside plain attention in float32, and how long it took, most of it compilation. Then training steps
as the loop makes them, on real pieces in the recipe's lanes once memories are full: tokens predicted per second, the
share of what products of large matrices reach that the model's arithmetic is, the most memory, and how fast the feed is
alone. One line of JSON each. On a CPU nothing is compiled; that tries the script, with few lanes of a small recipe.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ritornello.bench.training import matrix_flops_per_s
from ritornello.corpus import Corpus
from ritornello.models import build
from ritornello.training.fast import Fast, errors, wrong
from ritornello.training.fitting import memory_peak_bytes
from ritornello.training.optimisers import Optimisers
from ritornello.training.ranks import ALONE
from ritornello.training.readers import Reader, Streaming
from ritornello.training.recipes import Recipe, recipe_named

SCHEDULES = (None, "uniform(1000)", "uniform(1024) sliding", "uniform(0)")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a packed corpus")
    parser.add_argument("--recipe", default="base")
    parser.add_argument("--lanes", type=int, help="instead of the recipe's")
    parser.add_argument("--steps", type=int, default=100, help="to time, of each way")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    corpus, device = Corpus.open(arguments.data), torch.device(arguments.device)
    recipe, compiled = recipe_named(arguments.recipe).changed(lanes=arguments.lanes), device.type == "cuda"
    name = torch.cuda.get_device_name(device) if compiled else "CPU"
    peak = matrix_flops_per_s(device, "bf16")
    print(json.dumps({"device": name, "torch": torch.__version__, "matrix_tflops_per_s": peak / 1e12}), flush=True)
    for schedule in SCHEDULES:
        config = recipe.changed(schedule=schedule).streaming
        began_s = time.perf_counter()
        found = errors(config, corpus, lanes=recipe.lanes, legal=recipe.legal, device=device, compiled=compiled)
        figures = {"schedule": str(config.schedule), **found, "wrong": wrong(found)}
        print(json.dumps({**figures, "seconds": time.perf_counter() - began_s}), flush=True)
    for way, kind in (("fast", partial(Fast, compiled=compiled)), ("plain", Streaming)):
        print(json.dumps({"way": way, **speed(kind, corpus, recipe, device, arguments.steps, peak)}), flush=True)


def speed(kind: Any, corpus: Corpus, recipe: Recipe, device: torch.device, steps: int, peak: float) -> dict[str, Any]:
    """Of training with a reader, beginning where all memories are full."""
    torch.manual_seed(0)
    model = build(recipe.model).to(device).train()
    reader: Reader = kind(model, corpus, recipe, 0, "bf16", ALONE)
    optimisers = Optimisers(model, recipe)
    config = recipe.streaming
    first = -(-max(config.horizons) // config.segment_tokens) * recipe.interleave + 2
    with ThreadPoolExecutor(1) as pool:
        batches = prefetched(reader.feed, pool)
        for _ in range(first):
            train(model, reader, optimisers, next(batches), recipe)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began_s, tokens, waited_s = now_s(device), 0, 0.0
        for _ in range(steps):
            asked_s = time.perf_counter()
            batch = next(batches)
            waited_s += time.perf_counter() - asked_s
            tokens += train(model, reader, optimisers, batch, recipe)
        host_s, seconds = time.perf_counter() - began_s, now_s(device) - began_s
    peak_bytes, began_s = memory_peak_bytes(device), time.perf_counter()
    fed = sum(next(reader.feed).tokens for _ in range(steps))
    return {
        "tokens_per_s": tokens / seconds,
        "matrix_share": tokens / seconds * config.training_flops_per_token(piece_tokens=16_384) / peak,
        "step_ms": 1e3 * seconds / steps,
        "host_ms": 1e3 * host_s / steps,
        "feed_waited_ms": 1e3 * waited_s / steps,
        "peak_bytes": peak_bytes,
        "feed_alone_tokens_per_s": fed / (time.perf_counter() - began_s),
    }


def train(model: Any, reader: Reader, optimisers: Optimisers, batch: Any, recipe: Recipe) -> int:
    """One update, as in ``training.loop.train_step``; the tokens that it predicted."""
    (reader.nats(batch, 1.0).sum() / batch.tokens).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimisers.step(0.1)
    return int(batch.tokens)


def prefetched(feed: Any, pool: ThreadPoolExecutor) -> Iterator[Any]:
    """Batches, each made while the one before is trained on."""
    pending = pool.submit(next, feed)
    while True:
        batch = pending.result()
        pending = pool.submit(next, feed)
        yield batch


def now_s(device: torch.device) -> float:
    """The time, once the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
