"""``study run``, ``study play`` and ``study table``: the papers' comparisons, and that of recipes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ritornello.cli.common import (
    AsJson,
    DataFolder,
    Lanes,
    PieceTokens,
    PrecisionName,
    app,
    console,
    count_bar,
    device_named,
    needs_torch,
    with_options,
)
from ritornello.errors import RitornelloError
from ritornello.files import check_writable

study_app = typer.Typer(help="Comparisons: every row trained alike.")
app.add_typer(study_app, name="study")


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Which comparison, such as dsmr, perceivers, training or recall.")
]
StudyFolder = Annotated[Path, typer.Option(help="The study's folder: settings, trainings, one JSON per run.")]


@dataclass(frozen=True)
class Played:
    """The sets of pieces that the models play."""

    pieces: Annotated[int, typer.Option(help="Pieces of each set; what is there is kept.")] = 32
    tokens: Annotated[int, typer.Option(help="Length of a piece, unless the model ends it before.")] = 8192
    row: Annotated[list[str] | None, typer.Option(help="Play only this row; may be given more than once.")] = None
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder.")] = 1.0
    top_p: Annotated[float, typer.Option(help="Only the likeliest events that together reach this.")] = 0.95

    def plan(self) -> Any:
        """See `studies.table_one.Plan`."""
        from ritornello.sampling import Sampling
        from ritornello.studies.table_one import Plan

        sampling = Sampling(self.temperature, self.top_p, returns=0.0, playable=False)
        return Plan(rows=self.row or [], pieces=self.pieces, tokens=self.tokens, sampling=sampling)


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
    from ritornello.studies.run import run_study
    from ritornello.studies.study import study_named
    from ritornello.training.fitting import faster_precision
    from ritornello.training.ranks import launched, own_device
    from ritornello.training.recipes import recipe_named

    study, on, corpus = study_named(name), own_device(device_named(device)), Corpus.open(data)
    chosen = recipe_named(recipe or study.recipe)
    faster = faster_precision(on, width=chosen.model.width) if on.type == "cuda" else "fp32"
    conditions = study.conditions(
        corpus,
        recipe=recipe,
        lanes=lanes,
        piece_tokens=piece_tokens,
        steps=steps,
        budget_tokens=budget,
        legal=legal,
        pieces=pieces,
        precision=faster if precision is None else precision.value,
    )
    share = launched()
    how: dict[str, Any] = {"rows": row or [], "seeds": seeds, "jobs": jobs}
    done = run_study(corpus, out, conditions, device=str(on), share=share, say=console.print, **how)
    reached = "complete" if done else "stopped; the same command goes on"
    part = f" (part {share[0] + 1} of {share[1]})" if share[1] > 1 else ""
    console.print(f"{out}: {reached}{part}; see 'ritornello study table {name} --out {out}'")


@study_app.command(epilog="Example: ritornello study play perceivers --out runs/study --pieces 32")
@with_options(played=Played)
def play(name: Name, out: StudyFolder, *, played: Played) -> None:
    """A set of pieces from every run that is done, from nothing and all drawn alike: OUT/sets/ROW-seed-N/*.mid."""
    needs_torch()
    from ritornello.studies.table_one import play_sets

    play_sets(out, name, played.plan(), console.print)
    console.print(f"{out / 'sets'}: complete; compare them with 'ritornello study table {name} --sets'")


@study_app.command(epilog="Example: ritornello study table perceivers --out runs/study --sets --data data/asap")
@with_options(played=Played)
def table(
    name: Name,
    out: StudyFolder,
    markdown: Annotated[Path | None, typer.Option(help="Write the report here instead of printing it.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the table here (.png or .svg).")] = None,
    curves: Annotated[Path | None, typer.Option(help="Draw the curves here (.png or .svg).")] = None,
    sets: Annotated[
        bool, typer.Option("--sets", help="What the models play beside people's pieces too; makes the sets it lacks.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --sets: the packed corpus of the runs, for people's pieces.")
    ] = None,
    repetition: Annotated[
        Path | None, typer.Option(help="With --sets: draw repetition over time here (.png or .svg).")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="With --sets: processes that compare; one for each processor.", min=1)
    ] = None,
    as_json: AsJson = False,
    *,
    played: Played,
) -> None:
    """A comparison's table, beside the paper's figures where it has some, from the runs that are done.

    With --sets also PerceiverS's table I: pieces from every run beside people's, in OUT/sets; what is there is kept,
    and the same command goes on.
    """
    from ritornello.files import write_whole
    from ritornello.studies import report
    from ritornello.studies.record import read_records
    from ritornello.studies.study import study_named

    for path in filter(None, (markdown, png, curves, repetition)):
        check_writable(path)
    if sets != (data is not None) or (repetition is not None and not sets):
        raise RitornelloError(
            "--sets needs --data, and --data and --repetition need --sets; give both, or none of them"
        )
    study = study_named(name)
    records = read_records(out, name)
    rows = report.rows_of(study, records)
    if png is not None:
        report.draw_table(study, records, png)
    if curves is not None:
        study.draw(rows, report.row_named(rows, study.baseline), curves)
    text = report.markdown(study, records)
    figures: dict[str, Any] = {"study": name, "rows": report.figures(study, records)}
    if data is not None:
        needs_torch()
        from ritornello.corpus import Corpus
        from ritornello.studies import table_one

        made = table_one.make_sets(Corpus.open(data), out, name, played.plan(), console.print)
        with count_bar() as progress:
            compared = table_one.compare_sets(made, [row.name for row in rows], jobs=jobs, progress=progress)
        if repetition is not None:
            table_one.draw(compared, repetition)
        text += "\n" + table_one.markdown(made, compared, study.baseline)
        figures["sets"] = table_one.figures(made, compared, study.baseline)
    if markdown is not None:
        write_whole(markdown, text)
    if as_json:
        print(json.dumps(figures, indent=1))
    elif markdown is None:
        print(text, end="")
