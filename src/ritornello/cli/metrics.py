"""``metrics``: musical features of generated pieces beside a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ritornello.cli.common import MAX_SEED, AsJson, app, check_writable, console, count_bar
from ritornello.errors import RitornelloError

if TYPE_CHECKING:
    from ritornello.reports import Comparison


@app.command(epilog="Example: ritornello metrics data/human samples --html report.html")
def metrics(
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE_DIR", help="MIDI files to be compared with.")],
    generated: Annotated[Path, typer.Argument(metavar="GENERATED_DIR", help="The MIDI files that are judged.")],
    preset: Annotated[
        list[str] | None, typer.Option(help="perceivers, playing, structure or mgeval; the first three if not given.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Names of features, between commas.")] = None,
    seed: Annotated[int, typer.Option(help="Of intervals and nulls.", min=0, max=MAX_SEED)] = 0,
    html: Annotated[Path | None, typer.Option(help="Write the report with pictures here, one file.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes; one for each processor if not given.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """How far a set of pieces is from a reference in musical features, and how far human halves are from each other."""
    from ritornello.files import write_whole
    from ritornello.metrics import PRESETS
    from ritornello.reports import compare_folders, page

    if html is not None:
        check_writable(html)
    for name in preset or ():
        if name not in PRESETS:
            raise RitornelloError(f"preset {name!r} is unknown; there are {', '.join(PRESETS)}")
    named = [name.strip() for name in (features or "").split(",") if name.strip()]
    if features is not None and not named:
        raise RitornelloError("--features names none; give names between commas, or leave it out")
    wanted = [*(preset or ()), *named] or None
    with count_bar() as progress:
        comparison = compare_folders(reference, generated, wanted, seed=seed, jobs=jobs, progress=progress)
    if html is not None:
        write_whole(html, page(comparison))
    if as_json:
        print(json.dumps(comparison.figures(), indent=1))
    else:
        _show(comparison)
    if html is not None and not as_json:
        console.print(f"{html}: written")


def _show(comparison: Comparison) -> None:
    from ritornello.reports.words import figure, widths

    for side in (comparison.reference, comparison.generated):
        for name, reason in side.skipped:
            console.print(f"left out {side.folder / name}: {reason}")
    table = Table(box=SIMPLE, padding=0)
    table.add_column("feature", overflow="fold")
    for heading in ("reference", "generated", "OA", "interval", "band", "KLD", "widths\nbelow"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in comparison.results.items():
        means = result.means
        overlap = result.figures[result.figures["verdict"]["score"]]
        low, _, high = overlap["null"]
        table.add_row(
            name,
            *(("", "") if means is None else (figure(mean) for mean in means)),
            f"{overlap['score']:.2f}",
            "{:.2f} {:.2f}".format(*overlap["interval"]),
            f"{low:.2f} {high:.2f}",
            f"{result.figures['kld']['score']:.2f}",
            Text("inside", style="green") if result.inside else Text(widths(result), style="red"),
        )
    console.print(table)
    for line in comparison.warnings():
        console.print(f"note: {line}")
    console.print(
        f"{comparison.inside} of {len(comparison.results)} features inside the human band: "
        f"{len(comparison.generated.names)} pieces beside {len(comparison.reference.names)}. OA is the overlap area "
        "(with the reference's distances or the generated pieces' own, whichever is lower in its band), the band holds "
        "95% of those between random halves of the reference."
    )
    furthest = comparison.atypical()[0]
    console.print(
        f"least typical: {furthest.name}, {furthest.distance:.2f} times as far from the reference as its pieces are "
        f"from each other, furthest in {furthest.furthest}"
    )
