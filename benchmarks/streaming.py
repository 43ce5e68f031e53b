"""A long stream: does memory grow, how long does the slowest token take, and are the last logits right?

    python benchmarks/streaming.py --tokens 1000000

One take plays on and on, END forbidden, as a live player would. Then a fresh session reads the last tokens alone, as
many as the model's layers reach back, from the position where they stood and one by one as the stream did; it must say
the same of the next event. A motif memory reaches further: the session is given one that read all tokens anew.
Resident memory is noted at every tenth of the stream. Ctrl-C ends the stream early, and what was played is compared.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.bench.meter import resident_bytes
from ritornello.engines import Engine, Session
from ritornello.models.config import ModelConfig
from ritornello.performing import load


def main() -> None:
    """Streams, compares and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base")
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


def measure(model: str, engine: str, tokens: int, threads: int | None, seed: int) -> dict[str, object]:
    """The figures of one stream of events."""
    performer = load(model, engine=engine, threads=threads)
    sampling = replace(performer.sampling, returns=0)  # called back, a motif memory hangs on more than tokens
    take, rng = performer.begin(), np.random.default_rng(seed)
    # Filled, so that the memory is had now and not as the stream goes on.
    played, latency_s, resident = np.full(tokens + 1, codec.START, np.int16), np.full(tokens, np.nan, np.float32), []
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    done, began = 0, time.perf_counter()
    clock = began
    while done < tokens and not stopped:
        token = take.play(sampling, rng, may_end=False).token
        later = time.perf_counter()
        latency_s[done], clock = later - clock, later
        done += 1
        played[done] = token
        if done % (tokens // 10) == 0:
            resident.append(resident_bytes("VmRSS"))
            print(done, f"{later - began:.0f} s", resident[-1], file=sys.stderr, flush=True)
    spent_s, latency_s = clock - began, latency_s[:done]
    take.hear([])  # the last event is read too
    expected = take.save()["logits"]
    late = played[: done + 1][-reach_tokens(performer.engine) :]
    again = fresh(performer.engine, played[: done + 1 - len(late)])
    for token in late:
        found = again.read(np.array([token]))
    return {
        "model": model,
        "engine": engine,
        "tokens": done,
        "music_s": take.seconds,
        "tokens_per_s": done / spent_s,
        "median_ms": float(np.median(latency_s)) * 1e3,
        "p99_ms": float(np.quantile(latency_s, 0.99)) * 1e3,
        "slowest_ms": float(latency_s.max()) * 1e3,
        "resident_bytes": resident,
        "grown_bytes": resident[-1] - resident[0] if resident else 0,
        "read_again_tokens": len(late),
        "largest_difference_of_logits": float(np.abs(found - expected).max()),
    }


def fresh(engine: Engine, before: NDArray[np.int16]) -> Session:
    """A session that begins behind these tokens and knows none of them, but for a motif memory that has read them."""
    session = engine.begin(len(before))
    if not config_of(engine).motif_notes:
        return session
    motifs = codec.MotifMemory(config_of(engine).motif_notes)
    for token in before.tolist():
        motifs.advance(token)
    return engine.resume({**session.save(), "motifs": motifs.to_array()})


def config_of(engine: Any) -> ModelConfig:
    """Of its model."""
    return engine.config if hasattr(engine, "config") else engine.model.config


def reach_tokens(engine: Engine) -> int:
    """So many tokens back one may still influence the next event: every layer's horizon and segment, and one more."""
    config = config_of(engine)
    segments = sum(-(-horizon // config.segment_tokens) + 1 for horizon in config.horizons)
    return (segments + 1) * config.segment_tokens


if __name__ == "__main__":
    main()
