"""Puts a run's best checkpoint into the package as a bundled model, its weights in bfloat16.

python tools/bundle.py runs/small small
"""

from __future__ import annotations

import argparse

from ritornello.checkpoint import BUNDLED, half_precision, load_checkpoint, save_checkpoint

KEPT = ("step", "tokens", "seconds", "best", "legal", "recipe", "seed")


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder, or one of its checkpoints")
    parser.add_argument("name", help="the bundled model's name")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.run)
    folder = BUNDLED / arguments.name
    save_checkpoint(
        folder,
        family=checkpoint.family,
        config=checkpoint.config,
        data=checkpoint.data,
        progress={key: checkpoint.progress[key] for key in KEPT},
        tensors={"weights": half_precision(checkpoint.tensors())},
    )
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes; write its MODEL_CARD.md")


if __name__ == "__main__":
    main()
