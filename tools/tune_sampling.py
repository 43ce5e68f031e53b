"""How the way of drawing tokens moves a model's pieces towards or away from a reference: sets, a table and a picture.

python tools/tune_sampling.py base sets/human sets/base --settings 1,0.95,0 0.95,1,0.02 --png docs/images/sampling.png

Each setting is TEMPERATURE,TOP_P,MIN_P and has a folder of its own; what is there is kept. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from ritornello.charts import COLOURS, in_house_look, new_figure, save
from ritornello.engines import DEFAULT_ENGINE, ENGINES
from ritornello.reports import Comparison, compare_folders
from ritornello.reports.table import number
from ritornello.sampling import Sampling
from ritornello.studies.table_one import play_set

SHOWN = ("note_density", "velocity_mean", "sounding_length", "polyphony", "near_repetition", "far_repetition")


def main() -> None:
    """Reads the arguments, plays what is missing, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundled model's name, a checkpoint or an exported folder")
    parser.add_argument("reference", type=Path, help="human pieces, cut to as many tokens")
    parser.add_argument("out", type=Path, help="folder of the sets")
    parser.add_argument("--settings", type=setting, nargs="+", required=True, metavar="T,P,M")
    parser.add_argument("--pieces", type=int, default=26)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--first-seed", type=int, default=0, help="piece n has seed n more than that")
    parser.add_argument("--engine", choices=ENGINES, default=DEFAULT_ENGINE)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="sets played at a time, a thread each")
    parser.add_argument("--png", type=Path, default=None)
    arguments = parser.parse_args()
    folders = {sampling: arguments.out / name_of(sampling) for sampling in arguments.settings}
    play = partial(
        play_set,
        arguments.model,
        pieces=arguments.pieces,
        tokens=arguments.tokens,
        first_seed=arguments.first_seed,
        engine=arguments.engine,
        threads=1,
    )
    with ProcessPoolExecutor(arguments.processes) as pool:
        list(pool.map(play, folders.values(), folders))
    found = dict(zip(folders, compare_folders(arguments.reference, list(folders.values())), strict=True))
    print(table(found))
    if arguments.png is not None:
        draw(found, arguments.png)


def setting(text: str) -> Sampling:
    """TEMPERATURE,TOP_P,MIN_P."""
    temperature, top_p, min_p = map(float, text.split(","))
    return Sampling(temperature, top_p, min_p)


def name_of(sampling: Sampling) -> str:
    """Of a setting's folder."""
    return f"t{sampling.temperature:g}-p{sampling.top_p:g}-m{sampling.min_p:g}"


def table(found: dict[Sampling, Comparison]) -> str:
    """A Markdown row for each setting, the reference's means first."""
    header = ["temperature", "top-p", "min-p", "inside", "widths outside, in all", *SHOWN, "furthest outside"]
    first = next(iter(found.values()))
    rows = [["reference", "", "", "", "", *means(first, 0), ""]]
    for sampling, one in found.items():
        outside = one.outside()
        numbers = (f"{x:g}" for x in (sampling.temperature, sampling.top_p, sampling.min_p))
        inside = f"{one.inside} of {len(one.results)}"
        worst = ", ".join(f"{result.feature.name} {result.widths:.1f}" for result in outside[:3])
        rows.append([*numbers, inside, f"{widths_outside(one):.1f}", *means(one, 1), worst])
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def means(one: Comparison, side: int) -> list[str]:
    """Of the features shown; side 0 is the reference."""
    return [number(found[side]) if (found := one.results[name].means) else "" for name in SHOWN]


def widths_outside(one: Comparison) -> float:
    """By how many of their bands' widths all features lie outside, in sum."""
    return sum(result.widths for result in one.results.values())


@in_house_look
def draw(found: dict[Sampling, Comparison], picture: Path) -> None:
    """Features inside, and widths outside, over the temperature; a line for each top-p and min-p."""
    chart = new_figure(10, 4)
    inside, outside = chart.subplots(1, 2)
    kinds = dict.fromkeys((sampling.top_p, sampling.min_p) for sampling in found)
    for (top_p, min_p), colour in zip(kinds, COLOURS):
        line = sorted((s for s in found if (s.top_p, s.min_p) == (top_p, min_p)), key=lambda s: s.temperature)
        at = [sampling.temperature for sampling in line]
        label = f"top-p {top_p:g}" + (f", min-p {min_p:g}" if min_p else "")
        inside.plot(at, [found[sampling].inside for sampling in line], "o-", color=colour, label=label)
        outside.plot(at, [widths_outside(found[sampling]) for sampling in line], "o-", color=colour)
    features = len(next(iter(found.values())).results)
    inside.set(title=f"Features inside the human band, of {features}", xlabel="temperature")
    outside.set(title="Widths of the bands outside, in sum", xlabel="temperature", ylim=(0, None))
    outside.legend(loc="lower left", ncols=2)
    save(chart, picture)


if __name__ == "__main__":
    main()
