"""``metrics``: musical features of generated pieces beside a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ritornello.cli.common import MAX_SEED, AsJson, app, console, count_bar, output
from ritornello.errors import RitornelloError, counted
from ritornello.files import check_writable

if TYPE_CHECKING:
    from ritornello.reports import Comparison


@app.command(epilog="Example: ritornello metrics human generated --html report.html")
def metrics(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE_DIR", help="MIDI files to be compared with.")],
    generated: Annotated[
        list[Path],
        typer.Argument(metavar="GENERATED_DIR", help="MIDI files that are judged; several folders make one table."),
    ],
    preset: Annotated[
        list[str] | None,
        typer.Option(help="perceivers, playing, structure or mgeval; the first three but key_length if not given."),
    ] = None,
    features: Annotated[str | None, typer.Option(help="Names of features, between commas.")] = None,
    seed: Annotated[int, typer.Option(help="Of intervals and nulls.", min=0, max=MAX_SEED)] = 0,
    html: Annotated[Path | None, typer.Option(help="Write the report with pictures here, one file.")] = None,
    repetition: Annotated[
        Path | None, typer.Option(help="Draw repetition over time, of the reference and all sets, here (.png or .svg).")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one for each processor if not given.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """How far a set of pieces is from a reference in musical features, and how far human halves are from each other.

    Several generated sets are printed as Markdown: a row for each, and the scores of every feature.
    """
    from ritornello.charts import needs_matplotlib
    from ritornello.files import write_whole
    from ritornello.metrics.registry import PRESETS
    from ritornello.reports import compare_folders, draw_repetition, markdown, page

    for path in filter(None, (html, repetition)):
        check_writable(path)
        needs_matplotlib()
    if html is not None and len(generated) > 1:
        raise RitornelloError(f"--html shows one generated set and not {len(generated)}; give one, or leave it out")
    for name in preset or ():
        if name not in PRESETS:
            raise RitornelloError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
    named = [name.strip() for name in (features or "").split(",") if name.strip()]
    if features is not None and not named:
        raise RitornelloError("--features names none; give names between commas, or leave it out")
    wanted = [*(preset or ()), *named] or None
    with count_bar() as progress:
        comparisons = compare_folders(reference, generated, wanted, seed=seed, jobs=jobs, progress=progress)
    if html is not None:
        write_whole(html, page(comparisons[0]))
    if repetition is not None:
        sets = [comparisons[0].reference, *(comparison.generated for comparison in comparisons)]
        draw_repetition({str(side.folder): side for side in sets}, repetition)
    if as_json:
        figures = [comparison.figures() for comparison in comparisons]
        print(json.dumps(figures if len(figures) > 1 else figures[0], indent=1))
    elif len(comparisons) > 1:
        for comparison in comparisons:
            for line in comparison.warnings():
                console.print(f"note: {line}")
        print(markdown(comparisons), end="")
    else:
        _show(comparisons[0])
    for path in filter(None, (html, repetition)):
        if not as_json:
            console.print(f"{path}: written")


def _show(comparison: Comparison) -> None:
    from ritornello.reports.sets import LONGEST_LAG
    from ritornello.reports.table import number

    for side in (comparison.reference, comparison.generated):
        for name, reason in side.skipped:
            console.print(f"left out {side.folder / name}: {reason}")
    table = Table(box=SIMPLE, padding=0)
    table.add_column("feature", overflow="fold")
    for heading in ("refer-\nence", "gener-\nated", "OA", "interval", "band", "energy", "at\nmost", "widths\noutside"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in comparison.results.items():
        means = result.means
        overlap = result.overlap
        table.add_row(
            name,
            *(("", "") if means is None else map(number, means)),
            f"{overlap['score']:.2f}",
            "{:.2f} {:.2f}".format(*overlap["interval"]),
            f"{overlap['null'][0]:.2f} {overlap['null'][2]:.2f}",
            f"{result.energy:.3f}",
            f"{result.figures['energy']['null'][2]:.3f}",
            Text("inside", style="green") if result.inside else Text(f"{result.widths:.1f}", style="red"),
        )
    output.print(table)
    for line in comparison.warnings():
        console.print(f"note: {line}")
    output.print(
        f"{comparison.inside} of {counted(len(comparison.results), 'features')} inside the human band: "
        f"{len(comparison.generated.names)} pieces beside {len(comparison.reference.names)}. OA is the overlap area "
        "(with the reference's distances or the generated pieces' own, whichever is lower in its band), energy how "
        "much further pieces of different sets are from each other than pieces of one. A band holds 95% of what random "
        "halves of the reference score: OA must not be below it, energy not above."
    )
    sizes = (side.autocorrelation_size.mean() for side in (comparison.generated, comparison.reference))
    output.print(
        "token autocorrelation, mean size at lags 1 to {:,}: {:.4f}, of the reference {:.4f}".format(
            LONGEST_LAG, *sizes
        )
    )
    furthest = comparison.atypical()[0]
    output.print(
        f"least typical: {furthest.name}, {furthest.distance:.2f} times as far from the reference as its pieces are "
        f"from each other, furthest in {furthest.furthest}"
    )
