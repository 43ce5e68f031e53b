"""``study run``, ``study play`` and ``study table``: the papers' comparisons, and that of recipes."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ritornello.cli.common import (
    AsJson,
    DataFolder,
    Lanes,
    PieceTokens,
    PrecisionName,
    app,
    check_writable,
    console,
    device_named,
    needs_torch,
)

study_app = typer.Typer(help="Comparisons: every row trained alike.")
app.add_typer(study_app, name="study")


class StudyName(str, Enum):
    """The comparisons that there are."""

    dsmr = "dsmr"
    perceivers = "perceivers"
    training = "training"
    recall = "recall"


Name = Annotated[
    StudyName, typer.Argument(metavar="NAME", help="Which comparison: dsmr, perceivers, training or recall.")
]
StudyFolder = Annotated[Path, typer.Option(help="The study's folder: settings, trainings, one JSON per run.")]


@study_app.command(epilog="Example: ritornello study run dsmr --data data/asap --out runs/study")
def run(
    name: Name,
    data: DataFolder,
    out: StudyFolder,
    recipe: Annotated[
        str | None, typer.Option(help="Size and training of every row: study, or perceivers_study.", show_default=False)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of every run; the recipe's if not given.")] = None,
    lanes: Lanes = None,
    piece_tokens: PieceTokens = None,
    seeds: Annotated[int, typer.Option(help="Runs of every row.")] = 2,
    budget: Annotated[int | None, typer.Option(help="Horizons' sum of every row; the recipe's if not given.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be given more than once.")] = None,
    pieces: Annotated[int, typer.Option(help="Validation pieces read whole at the end of a run.")] = 16,
    legal: Annotated[
        bool | None,
        typer.Option("--legal/--free", help="Train and read under the grammar; the papers do not.", show_default=False),
    ] = None,
    precision: Annotated[
        PrecisionName | None,
        typer.Option(help="Of products and memories; fp32 if not given, on CUDA the faster.", show_default=False),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time; each has its share of the threads.")] = 1,
) -> None:
    """Train every row of a comparison with every seed; what is done is kept, and the same command goes on."""
    needs_torch()
    from ritornello.corpus import Corpus
    from ritornello.studies.rows import STUDIES
    from ritornello.studies.runs import run_study
    from ritornello.studies.settings import StudySettings
    from ritornello.training.precision import faster_precision
    from ritornello.training.recipes import recipe_named

    study = STUDIES[name.value]
    recipe = recipe or study.recipe
    chosen, on = recipe_named(recipe), device_named(device)
    faster = faster_precision(on, width=chosen.model.width) if on.type == "cuda" else "fp32"
    settings = StudySettings(
        study=name.value,
        recipe=recipe,
        lanes=lanes,
        piece_tokens=piece_tokens,
        steps=chosen.steps if steps is None else steps,
        seeds=seeds,
        budget_tokens=study.budget_tokens(recipe) if budget is None else budget,
        rows=tuple(row or ()),
        pieces=pieces,
        legal=study.legal if legal is None else legal,
        precision=faster if precision is None else precision.value,
    )
    done = run_study(Corpus.open(data), out, settings, device=str(on), jobs=jobs, say=console.print)
    reached = "complete" if done else "stopped; the same command goes on"
    console.print(f"{out}: {reached}; see 'ritornello study table {name.value} --out {out}'")


@study_app.command(epilog="Example: ritornello study play perceivers --out runs/study --pieces 32")
def play(
    name: Name,
    out: StudyFolder,
    pieces: Annotated[int, typer.Option(help="Pieces from each run; what is there is kept.")] = 32,
    tokens: Annotated[int, typer.Option(help="Length of a piece, unless the model ends it before.")] = 8192,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be given more than once.")] = None,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest events that together reach this.")] = 0.95,
) -> None:
    """A set of pieces from every run that is done, from nothing and all drawn alike: OUT/sets/ROW-seed-N/*.mid."""
    needs_torch()
    from ritornello.sampling import Sampling
    from ritornello.studies.playing import play_sets

    sampling = Sampling(temperature, top_p)
    play_sets(out, name.value, rows=row or [], pieces=pieces, tokens=tokens, sampling=sampling, say=console.print)
    console.print(f"{out / 'sets'}: complete; compare them with 'ritornello metrics REFERENCE_DIR GENERATED_DIR'")


@study_app.command(epilog="Example: ritornello study table dsmr --out runs/study --curves curves.png")
def table(
    name: Name,
    out: StudyFolder,
    markdown: Annotated[Path | None, typer.Option(help="Write the report here instead of printing it.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the table here (.png or .svg).")] = None,
    curves: Annotated[Path | None, typer.Option(help="Draw the curves here (.png or .svg).")] = None,
    as_json: AsJson = False,
) -> None:
    """A comparison's table, beside the paper's figures where it has some, from the runs that are done."""
    from ritornello.files import write_whole
    from ritornello.studies.reports import REPORTS
    from ritornello.studies.results import read_results

    for path in filter(None, (markdown, png, curves)):
        check_writable(path)
    report, results = REPORTS[name.value], read_results(out, name.value)
    if png is not None:
        report.draw_table(results, png)
    if curves is not None:
        report.draw_curves(results, curves)
    if markdown is not None:
        write_whole(markdown, report.markdown(results))
    if as_json:
        print(json.dumps({"study": name.value, "rows": report.figures(results)}, indent=1))
    elif markdown is None:
        print(report.markdown(results), end="")
