"""Puts a run's best checkpoint into the package as a bundled model: weights in bfloat16, and the small engine's graphs.

python tools/bundle.py runs/small small     # a new version of the model
python tools/bundle.py --graphs             # only the graphs of all bundled models, when engines/graph.py has changed
"""

from __future__ import annotations

import argparse

from ritornello.checkpoint import BUNDLED, bundled_models, load_checkpoint, save_checkpoint
from ritornello.engines.exported import write_graphs

KEPT = ("step", "tokens", "seconds", "best", "legal", "precision", "recipe", "seed", "hours", "steps")


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="a run's folder, or one of its checkpoints")
    parser.add_argument("name", nargs="?", help="the bundled model's name")
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
    save_checkpoint(
        folder,
        family=checkpoint.family,
        config=checkpoint.config,
        trained_on=checkpoint.trained_on,
        run={key: checkpoint.run[key] for key in KEPT},
        tensors={"weights": {name: tensor.bfloat16() for name, tensor in checkpoint.tensors().items()}},
    )
    write_graphs(folder)
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {written:,} bytes; write its MODEL_CARD.md")


if __name__ == "__main__":
    main()
