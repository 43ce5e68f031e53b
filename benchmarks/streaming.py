"""A long stream: does memory grow, how long does the slowest token take, and are the last logits right?

    python benchmarks/streaming.py --tokens 1000000

One take plays on and on, END forbidden, as a live player would. Then a fresh session reads the last tokens alone, as
many as the model reaches back, from the position where they stood and one by one as the stream did; it must say the
same of the next event. Resident memory is noted at every tenth of the stream.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from itertools import islice

import numpy as np

from ritornello import codec
from ritornello.bench.meter import resident_bytes
from ritornello.performing import load


def main() -> None:
    """Streams, compares and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


def measure(model: str, engine: str, tokens: int, threads: int | None, seed: int) -> dict[str, object]:
    """The figures of one stream of events."""
    performer = load(model, engine=engine, threads=threads)
    reach = reach_tokens(performer.engine)
    late: deque[int] = deque([codec.START], maxlen=min(reach, tokens + 1))
    take, rng = performer.begin(), np.random.default_rng(seed)
    latency_s, resident = np.full(tokens, np.nan, np.float32), []
    began = clock = time.perf_counter()
    for n in range(tokens):
        late.append(take.play(performer.sampling, rng, may_end=False).token)
        later = time.perf_counter()
        latency_s[n], clock = later - clock, later
        if (n + 1) % (tokens // 10) == 0:
            resident.append(resident_bytes("VmRSS"))
    spent_s = clock - began
    take.hear([])  # the last event is read too
    expected = take.save()["logits"]
    again = performer.engine.begin(tokens + 1 - len(late))
    for token in islice(late, len(late)):
        found = again.read(np.array([token]))
    return {
        "model": model,
        "engine": engine,
        "tokens": tokens,
        "music_s": take.seconds,
        "tokens_per_s": tokens / spent_s,
        "median_ms": float(np.median(latency_s)) * 1e3,
        "p99_ms": float(np.quantile(latency_s, 0.99)) * 1e3,
        "slowest_ms": float(latency_s.max()) * 1e3,
        "resident_bytes": resident,
        "grown_bytes": resident[-1] - resident[0],
        "read_again_tokens": len(late),
        "largest_difference_of_logits": float(np.abs(found - expected).max()),
    }


def reach_tokens(engine: object) -> int:
    """So many tokens back one may still influence the next event: every layer's horizon and segment, and one more."""
    config = engine.config if hasattr(engine, "config") else engine.model.config
    if config.motif_notes:
        raise SystemExit("a motif memory reaches back as far as the piece; name a model without")
    segments = sum(-(-horizon // config.segment_tokens) + 1 for horizon in config.horizons)
    return (segments + 1) * config.segment_tokens


if __name__ == "__main__":
    main()
