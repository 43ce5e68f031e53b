"""Puts a run's best checkpoint into the package as a bundled model: its weights, and the small engine's graphs.

Matrices are stored as the small engine plays them, in int8 with a scale for each block of a row, which is half of what
bfloat16 takes; the rest in bfloat16.

python tools/bundle.py runs/base base                   # a new version of the model
python tools/bundle.py runs/base base --schedule "2x2048, 8x512" --segment-tokens 128   # ... in less memory
python tools/bundle.py --graphs                         # only the graphs, when engines/graph.py has changed
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch
from torch import Tensor

from ritornello.checkpoint import BUNDLED, BYTES, SCALE, bundled_models, load_checkpoint, save_checkpoint
from ritornello.engines.exported import write_graphs
from ritornello.engines.sizes import exportable, quantised

KEPT = ("step", "tokens", "seconds", "best", "legal", "precision", "recipe", "seed", "hours", "steps")


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="a run's folder, or one of its checkpoints")
    parser.add_argument("name", nargs="?", help="the bundled model's name")
    parser.add_argument("--schedule", help="instead of the run's")
    parser.add_argument("--segment-tokens", type=int, help="instead of the run's")
    parser.add_argument("--graphs", action="store_true", help="write the graphs of all bundled models, nothing else")
    arguments = parser.parse_args()
    if arguments.graphs:
        for name in bundled_models():
            write_graphs(BUNDLED / name)
        return
    if arguments.run is None or arguments.name is None:
        parser.error("name a run and the bundled model")
    checkpoint = load_checkpoint(arguments.run)
    folder = BUNDLED / arguments.name
    other = {"schedule": arguments.schedule, "segment_tokens": arguments.segment_tokens}
    config = exportable(
        checkpoint.family, checkpoint.config | {name: value for name, value in other.items() if value is not None}
    )
    save_checkpoint(
        folder,
        family=checkpoint.family,
        config=config.to_json(),
        trained_on=checkpoint.trained_on,
        run={key: checkpoint.run[key] for key in KEPT},
        tensors={"weights": stored(checkpoint.tensors(), config.matrices)},
    )
    write_graphs(folder)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {written:,} bytes; write its MODEL_CARD.md")


def stored(weights: Mapping[str, Tensor], matrices: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """Weights by name as they are stored, those of ``matrices`` in two parts each."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.removesuffix(".weight") in matrices:
            parts = quantised(tensor.float().numpy())
            found |= {name + part: torch.from_numpy(value) for part, value in zip((BYTES, SCALE), parts)}
        else:
            found[name] = tensor.bfloat16()
    return found


if __name__ == "__main__":
    main()
