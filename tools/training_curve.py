"""Draws what training runs predicted better and better: their logs' nats/token, and those of their validations.

python tools/training_curve.py docs/images/training-curve.png runs/base
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ritornello.charts import COLOURS, in_house_look, new_figure, save
from ritornello.training.folder import read_journal


@in_house_look
def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    figure = new_figure(10, 4.5)
    axes = figure.subplots()
    for run, colour in zip(arguments.runs, COLOURS[1:]):
        journal = read_journal(run)
        for name, look in (("nats", {"lw": 0.6, "alpha": 0.6}), ("validation", {"marker": "o"})):
            lines = [line for line in journal if name in line]
            label = f"{run.name}, {'training (augmented)' if name == 'nats' else 'validation pieces'}"
            tokens = [line["tokens"] / 1e6 for line in lines]
            axes.plot(tokens, [line[name] for line in lines], color=colour, label=label, **look)
    last = [line["validation"] for run in arguments.runs for line in read_journal(run) if "validation" in line]
    axes.set(xlabel="million tokens", ylabel="nats/token", ylim=(min(last) - 0.3, max(last) + 0.2))
    axes.legend()
    save(figure, arguments.picture)


if __name__ == "__main__":
    main()
