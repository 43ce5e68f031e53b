"""Real MIDI files damaged at random, through reading, encoding, decoding and writing.

    python benchmarks/mutants.py ASAP ROLLS --mutants 100000

Each mutant must become a piece, or the program's own error; a piece is encoded, decoded, written, read again and
encoded again, which must give the same tokens. Bytes, lengths, the order of parts and their nesting are damaged in
turns. Mutant n is the same whenever the files and the seed are: --only N makes one again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ritornello import codec
from ritornello.bench.meter import resident_bytes
from ritornello.errors import RitornelloError
from ritornello.midi import parse_midi, read_midi

LIMIT_S, LIMIT_BYTES = 1.0, 300_000_000
ODD_LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def main() -> None:
    """Makes the mutants and prints JSON; exits 1 where one met a fault or a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--most-bytes", type=int, default=20_000, help="larger files are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this mutant alone")
    arguments = parser.parse_args()
    found = sorted(path for folder in arguments.folders for path in folder.rglob("*.mid*"))
    files = [path.read_bytes() for path in found if path.stat().st_size <= arguments.most_bytes]
    numbers = range(arguments.mutants) if arguments.only is None else [arguments.only]
    figures = measure(files, numbers, arguments.seed)
    print(json.dumps(figures, indent=1))
    if figures["faults"] or figures["slowest_s"] > LIMIT_S or figures["peak_bytes"] > LIMIT_BYTES:
        raise SystemExit(1)


def measure(files: list[bytes], numbers: range | list[int], seed: int) -> dict[str, Any]:
    """What became of the mutants; Ctrl-C ends early."""
    outcomes: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    slowest = (0.0, -1)
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            for n in numbers:
                draw = random.Random(f"{seed}/{n}")
                kind = KINDS[n % len(KINDS)]
                data = kind(draw.choice(files), draw)
                began_s = time.process_time()
                try:
                    outcome = through(data, Path(folder, "mutant.mid"))
                except Exception:
                    outcome = "fault"
                    faults.append({"mutant": n, "fault": traceback.format_exc().strip().splitlines()[-3:]})
                slowest = max(slowest, (time.process_time() - began_s, n))
                outcomes[f"{kind.__name__}: {outcome}"] += 1
                done += 1
                if done % 10_000 == 0:
                    print(done, len(faults), slowest, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pass
    return {
        "files": len(files),
        "mutants": done,
        "outcomes": dict(sorted(outcomes.items())),
        "slowest_s": slowest[0],
        "slowest": slowest[1],
        "peak_bytes": resident_bytes("VmHWM"),
        "faults": faults,
    }


def through(data: bytes, path: Path) -> str:
    """What becomes of a file: read, with or without notes, or refused in one line."""
    try:
        piece = parse_midi(data, "mutant.mid")
    except RitornelloError as error:
        if "\n" in str(error):
            raise ValueError("an error is one line") from None
        return "refused"
    tokens = codec.encode(piece)
    codec.decode(tokens).write(path)
    assert np.array_equal(codec.encode(read_midi(path)), tokens), "what was written is read otherwise"
    return "read" if len(piece) else "read, without notes"


# ---- damages ----


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few bytes replaced, lost, put in, or one bit of them turned; a quarter of them near the beginning."""
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(min(64, len(damaged)) if draw.random() < 0.25 else len(damaged))
        some = draw.randbytes(draw.randint(1, 9))
        match draw.randrange(4):
            case 0:
                damaged[place : place + len(some)] = some
            case 1 if len(damaged) > 64:
                del damaged[place : place + len(some)]
            case 2:
                damaged[place:place] = some
            case _:
                damaged[place] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def changed_lengths(data: bytes, draw: random.Random) -> bytes:
    """A chunk's length, a number of the header or a length among events says something else."""
    damaged = bytearray(data)
    if draw.random() < 0.5:
        place = draw.choice([0, *chunks(data)]) + 4
        near = int.from_bytes(damaged[place : place + 4], "big") + draw.randint(-9, 9)
        damaged[place : place + 4] = (draw.choice((near, *ODD_LENGTHS)) & 0xFFFFFFFF).to_bytes(4, "big")
    elif draw.random() < 0.5:
        place = draw.choice((8, 10, 12))  # format, tracks, division
        odd = draw.choice((0, 1, 2, 3, 0xFFFF, 0x8000, draw.randrange(1 << 16)))
        damaged[place : place + 2] = odd.to_bytes(2, "big")
    else:
        place = draw.randrange(14, len(damaged))
        damaged[place : place + draw.randrange(5)] = b"\xff\xff\xff\x7f"[draw.randrange(4) :]
    return bytes(damaged)


def changed_order(data: bytes, draw: random.Random) -> bytes:
    """Chunks in another order, doubled or left out; or two stretches of bytes that change places."""
    places = [*chunks(data), len(data)]
    if draw.random() < 0.5 and len(places) > 1:
        parts = [data[a:b] for a, b in pairwise(places)]
        parts = draw.choices([data[: places[0]], *parts], k=draw.randint(1, len(parts) + 2))
        return b"".join([data[: places[0]], *parts] if draw.random() < 0.8 else parts)
    a, b, c = sorted(draw.randrange(14, len(data)) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def changed_nesting(data: bytes, draw: random.Random) -> bytes:
    """A file or a chunk within another's events, in a RIFF or gzip file, cut there or with bytes behind."""
    place = draw.choice([draw.randrange(len(data)), *chunks(data)])
    inner = data[draw.choice([0, *chunks(data)]) :][: draw.randint(1, len(data))]
    match draw.randrange(4):
        case 0:
            return data[:place] + inner + data[place:]
        case 1:
            size = draw.choice((len(data), len(data) - 9, draw.choice(ODD_LENGTHS))).to_bytes(4, "little")
            return b"RIFF" + size + b"RMIDdata" + size + data + draw.randbytes(draw.randrange(9))
        case 2:
            packed = gzip.compress(data, 1)
            return changed_bytes(packed, draw) if draw.random() < 0.5 else packed + inner
        case _:
            return data[: place + 8] + data + data[place:]


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    changed_bytes,
    changed_lengths,
    changed_order,
    changed_nesting,
)


def chunks(data: bytes) -> list[int]:
    """Where tracks begin, as their names have it."""
    places, place = [], data.find(b"MTrk")
    while place >= 0:
        places.append(place)
        place = data.find(b"MTrk", place + 1)
    return places


if __name__ == "__main__":
    main()
