"""What a token costs a PerceiverS as its context grows: linear in the cross-attention that sees it all, and only there.

    python benchmarks/perceiver_costs.py --png costs.png

For every context length N: seconds to generate a token (inside a window, and with the window's moves shared out over
their stride), seconds to train a token (forward and backward of a crop, per latent), and bytes of a session's memory.
The same model, weights random, tokens random, float32 on the CPU; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ritornello import codec
from ritornello.charts import in_house_look, new_figure, save
from ritornello.engines.framework import TorchEngine, TorchSession
from ritornello.likelihood import token_nats
from ritornello.models.perceivers import Perceiver, PerceiverConfig
from ritornello.training.recipes import perceivers_small

CONTEXTS_TOKENS = (1024, 2048, 4096, 8192, 16_384, 32_768)


def main() -> None:
    """Measures every context length and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS_TOKENS), help="N, in tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()
    config = perceivers_small().model
    assert isinstance(config, PerceiverConfig)
    rows = [measure(replace(config, context_tokens=n), arguments.repeats) for n in arguments.contexts]
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}, indent=1))
    else:
        show(rows)
    if arguments.png:
        draw(rows, arguments.png)


def measure(config: PerceiverConfig, repeats: int) -> dict[str, Any]:
    """The figures of one context length."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = Perceiver(config).eval()
    session = TorchEngine(model).begin()
    stride = config.stride_tokens
    # Until the context is full, and on to the middle of a stride.
    session.read(rng.integers(0, codec.N_EVENTS, config.context_tokens + stride // 2))
    step_s = median(lambda: session.read(rng.integers(0, codec.N_EVENTS, 1)), 8 * repeats)
    move_s = median(lambda: _to_next_move(session, rng), repeats) - step_s
    train_s = median(lambda: _train(model, rng), repeats) / config.latents
    return {
        "context_tokens": config.context_tokens,
        "generate_token_s": step_s + move_s / stride,
        "generate_token_inside_a_window_s": step_s,
        "move_s": move_s,
        "train_token_s": train_s,
        "session_bytes": session.nbytes,
    }


def median(work: Callable[[], float | Any], repeats: int) -> float:
    """Median seconds of some work; work that measures a part of itself says how long that took."""
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        took_s = work()
        times.append(took_s if isinstance(took_s, float) else time.perf_counter() - began_s)
    return statistics.median(times)


def _to_next_move(session: TorchSession, rng: np.random.Generator) -> float:
    """Reads up to the next move of the window; seconds of the token that moves it."""
    stride = session._model.segment_tokens
    session.read(rng.integers(0, codec.N_EVENTS, stride - session.position % stride))
    began_s = time.perf_counter()
    session.read(rng.integers(0, codec.N_EVENTS, 1))
    return time.perf_counter() - began_s


def _train(model: Perceiver, rng: np.random.Generator) -> None:
    config = model.config
    tokens = torch.from_numpy(rng.integers(0, codec.N_EVENTS, (1, config.context_tokens + 1)))
    logits = model.crop(tokens[:, :-1], torch.tensor([config.context_tokens - config.latents]))
    token_nats(logits, tokens[:, -config.latents :], None).mean().backward()


def show(rows: list[dict[str, Any]]) -> None:
    """A table."""
    print(f"{'context':>8} {'generate':>12} {'in a window':>12} {'a move':>10} {'train':>12} {'session':>10}")
    for row in rows:
        print(
            f"{row['context_tokens']:8,} {row['generate_token_s'] * 1e3:9.2f} ms "
            f"{row['generate_token_inside_a_window_s'] * 1e3:9.2f} ms {row['move_s'] * 1e3:7.0f} ms "
            f"{row['train_token_s'] * 1e3:9.2f} ms {row['session_bytes'] / 1e6:7.1f} MB"
        )


@in_house_look
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds against context."""
    figure = new_figure(9, 4)
    generate, train = figure.subplots(1, 2)
    context = [row["context_tokens"] for row in rows]
    for axes, lines, title in (
        (
            generate,
            {"with moves of the window": "generate_token_s", "inside a window": "generate_token_inside_a_window_s"},
            "A generated token",
        ),
        (train, {"forward and backward": "train_token_s"}, "A trained token"),
    ):
        for label, key in lines.items():
            axes.plot(context, [row[key] * 1e3 for row in rows], "o-", ms=4, label=label)
        axes.set(title=title, xlabel="context N, tokens", ylabel="ms", xlim=(0, None), ylim=(0, None))
        axes.legend()
    save(figure, path)


if __name__ == "__main__":
    main()
