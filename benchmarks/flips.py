"""Every byte of the manifests and headers of a corpus, a checkpoint and an export, flipped in turn.

    python benchmarks/flips.py

Of each byte one bit is turned, drawn by the seed (--bits 8: each of them). What is opened then must be refused in one
line, or be what was written: pieces and their tokens, a model's sizes, weights and origin, an engine's logits.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ritornello import codec
from ritornello.checkpoint import load_checkpoint, save_checkpoint
from ritornello.corpus import Corpus
from ritornello.corpus.prepare import prepare
from ritornello.engines.exported import load, write_export
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models import build
from ritornello.models.config import DSMRConfig
from ritornello.notes import Piece

SIZES = DSMRConfig(HorizonSchedule((64, 16)), width=32, heads=2, mlp_width=48, segment_tokens=16, motif_notes=32)


def main() -> None:
    """Writes the three, damages them, and prints JSON; exits 1 where a flip went unnoticed or ended otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=1, help="of each byte")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus, model, export = (Path(folder, name) for name in ("corpus", "model", "export"))
        write(Path(folder, "midi"), corpus, model, export)
        found = {}
        for path, say in ((corpus, of_corpus), (model, of_checkpoint), (export, of_export)):
            for file, length in headers(path).items():
                draw = random.Random(f"{arguments.seed}/{path.name}/{file.suffix}")
                found[f"{path.name}/{file.name}"] = flipped(path, file, length, say, arguments.bits, draw)
    print(json.dumps(found, indent=1))
    if any(row["faults"] for row in found.values()):
        raise SystemExit(1)


def write(midi: Path, corpus: Path, model: Path, export: Path) -> None:
    """A corpus of six pieces, and a model of random weights as checkpoint and export."""
    rng = np.random.default_rng(0)
    midi.mkdir()
    for n in range(6):
        onset = np.sort(rng.uniform(0, 20, 100))
        piece = Piece(onset, onset + rng.exponential(0.4, 100), rng.integers(30, 90, 100), rng.integers(1, 128, 100))
        piece.write(midi / f"{n}.mid")
    prepare(str(midi), corpus, workers=1)
    weights = build(SIZES).state_dict()
    about: dict[str, Any] = {"trained_on": {"name": "made up", "licence": "CC0"}, "run": {"step": 3, "legal": True}}
    save_checkpoint(model, family=SIZES.family, config=SIZES.to_json(), tensors={"weights": weights}, **about)
    write_export(str(model), export, "int8")


def headers(folder: Path) -> dict[Path, int]:
    """Files of a folder, and how many of their first bytes say what the others are."""
    found = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if path.suffix in (".json", ".jsonl") and path.name != "report.json":
            found[path] = len(content)
        elif path.suffix == ".npy":
            found[path] = 128
        elif path.suffix == ".safetensors":
            found[path] = 8 + int.from_bytes(content[:8], "little")
        elif path.suffix == ".onnx":
            found[path] = 256
    return found


def flipped(
    folder: Path, file: Path, length: int, say: Callable[[Path], object], bits: int, draw: random.Random
) -> dict[str, Any]:
    """What became of the flips in one file."""
    content, written = file.read_bytes(), say(folder)
    outcomes: Counter[str] = Counter()
    faults = []
    for place in range(length):
        for bit in draw.sample(range(8), bits):
            file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            try:
                outcome = "read rightly" if say(folder) == written else "read wrongly"
            except RitornelloError as error:
                outcome = "refused" if "\n" not in str(error) else "refused in several lines"
            except Exception as error:
                outcome = repr(error)[:200]
            outcomes[outcome] += 1
            if outcome not in ("refused", "read rightly"):
                faults.append({"byte": place, "bit": bit, "outcome": outcome})
    file.write_bytes(content)
    return {"flips": length * bits, **{name: outcomes[name] for name in ("refused", "read rightly")}, "faults": faults}


# ---- what is said of each; equal if nothing was lost ----


def of_corpus(folder: Path) -> object:
    """Its name and licence, its pieces and their tokens."""
    corpus = Corpus.open(folder)
    tokens = [corpus.tokens(record).tolist() for record in corpus.records]
    return corpus.name, corpus.licence, corpus.sources, list(corpus.records), tokens


def of_checkpoint(folder: Path) -> object:
    """All of it."""
    checkpoint = load_checkpoint(folder)
    return checkpoint, {name: array.tolist() for name, array in checkpoint.arrays().items()}


def of_export(folder: Path) -> object:
    """Its origin, sizes, and the logits of a few tokens."""
    engine = load(str(folder), "int8", threads=1)
    logits = engine.begin().read(np.array([codec.START]))
    return engine.trained_on, engine.legal, engine.config, logits.tolist()


if __name__ == "__main__":
    main()
