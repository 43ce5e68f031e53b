"""``train`` and ``evaluate``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ritornello.cli.common import (
    MAX_SEED,
    AsJson,
    DataFolder,
    Lanes,
    Memory,
    PieceTokens,
    PrecisionName,
    Split,
    app,
    bytes_of,
    console,
    count_bar,
    device_named,
    needs_torch,
    output,
)
from ritornello.errors import RitornelloError, counted
from ritornello.files import check_writable


@app.command(epilog="Example: ritornello train --init base --data ~/midi --out runs/mine")
def train(
    data: Annotated[Path, typer.Option(help="A packed corpus; or MIDI files (a folder, an archive), packed into OUT.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder: best and last checkpoint, log; runs/ and DATA's name.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="tiny, small, base, large, tune, study, perceivers_small, ..., or FILE.toml; if not given, OUT's, one "
            "that fits one's own files, tune with --init, or small."
        ),
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="A recipe's setting, such as model.width=512.")
    ] = [],  # noqa: B006
    hours: Annotated[float | None, typer.Option(help="Time budget; learning rates follow the clock.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in optimiser steps, instead of the recipe's.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Memory horizons, instead of the recipe's.")] = None,
    lanes: Lanes = None,
    piece_tokens: PieceTokens = None,
    free: Annotated[bool, typer.Option(help="Train without the grammar, as the papers do.")] = False,
    init: Annotated[
        str | None,
        typer.Option(help="Fine-tune this model, with the recipe's motif memory; at tune's rates if none is named."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUT.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.", min=0, max=MAX_SEED)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    precision: Annotated[
        PrecisionName | None, typer.Option(help="Of matrix products; the faster one here if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model, or fine-tune one.

    Of MIDI files that are not packed it holds some titles out and chooses settings that fit. With --init it ends with
    what the model foresees of those titles, and a minute of its music, before and after.
    """
    needs_torch()
    from ritornello.cli import tuning
    from ritornello.corpus import Corpus
    from ritornello.corpus.shards import NOTHING_HELD_OUT
    from ritornello.horizons import requested
    from ritornello.training.display import watch
    from ritornello.training.loop import train as run_training
    from ritornello.training.ranks import is_first
    from ritornello.training.recipes import read_setting, recipe_named, recipe_of

    if init is not None and schedule is not None:
        raise RitornelloError("--init and --schedule do not go together: a model keeps its horizons; leave one out")
    out, place, own_files = out or Path("runs") / data.resolve().name, device_named(device), not tuning.is_packed(data)
    named = recipe_of(out) if resume and recipe is None else recipe_named(recipe or ("tune" if init else "small"))
    opened = tuning.packed(data, out, init, resume=resume) if own_files else Corpus.open(data)
    corpus = opened.with_validation()
    if corpus is not opened:
        console.print(f"{data}: {NOTHING_HELD_OUT}")
    fits = own_files and recipe is None and not resume
    chosen = (
        (tuning.recipe_for(corpus, init, place, lanes) if fits else named)
        .changed(schedule=schedule, legal=False if free else None, lanes=lanes, piece_tokens=piece_tokens)
        .with_settings(dict(map(read_setting, settings)))
    )
    its = chosen.model.schedule
    if schedule is not None and its and (change := requested(schedule, layers=its.layers).change):
        console.print(change)
    start = init if own_files else None
    before = None if start is None else tuning.likelihood(start, corpus, place, legal=chosen.legal)
    with watch(console) as report:
        best = run_training(
            corpus,
            out,
            chosen,
            hours=hours,
            steps=steps,
            seed=seed,
            init=init,
            resume=resume,
            device=place,
            precision=None if precision is None else precision.value,
            report=report,
        )
    if not is_first():
        return
    kind, validated = "legal" if chosen.legal else "free", math.isfinite(best)
    figures: dict[str, Any] = {"run": str(out), "kind": kind}
    figures["best_validation_nats_per_token"] = best if validated else None
    if start is not None and before is not None and validated:
        after = tuning.likelihood(out, corpus, place, legal=chosen.legal)
        tuning.play(start, out / "before.mid", seed)
        tuning.play(out, out / "after.mid", seed)
        figures["held_out"] = {"before": before, "after": after}
        if not as_json:
            tuning.show((start, before), (out, after), kind, seed)
    if as_json:
        print(json.dumps(figures))
    else:
        reached = f"best validation {best:.4f} {kind} nats/token" if validated else "stopped before a validation"
        console.print(f"{out}: {reached}; play it with --model {out}")


@app.command(epilog="Example: ritornello evaluate base --data data/asap --split validation --schedule 'uniform(0)'")
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A bundled model's name, a checkpoint folder, or hf://owner/name.")
    ],
    data: DataFolder,
    split: Annotated[Split, typer.Option(help="Which pieces.")] = Split.validation,
    schedule: Annotated[str | None, typer.Option(help="Memory horizons, instead of the model's.")] = None,
    memory: Memory = None,
    free: Annotated[bool | None, typer.Option("--free/--legal", help="Softmax over all or legal events.")] = None,
    lanes: Annotated[int, typer.Option(help="Pieces read side by side; no figure depends on it.", min=1)] = 8,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    engine: Annotated[str | None, typer.Option(help="Read with an engine that plays, as it plays.")] = None,
    repeats: Annotated[bool, typer.Option(help="The repeat test too: is a passage foreseen when it returns?")] = False,
    png: Annotated[Path | None, typer.Option(help="Draw the repeat test here (.png or .svg).")] = None,
    as_json: AsJson = False,
) -> None:
    """Full-piece likelihood: every token of every piece predicted once, each piece from an empty state."""
    if schedule is not None and memory is not None:
        raise RitornelloError("--schedule and --memory both say what is remembered; leave one out")
    if engine is not None:
        if schedule is not None or device is not None:
            raise RitornelloError("an engine plays a model as it is, on the CPU; leave --schedule and --device out")
        if repeats or png is not None:
            raise RitornelloError("the repeat test is not read by an engine; leave --engine out")
        _show(_read_by_engine(model, data, split, engine, free, bytes_of(memory)), as_json)
        return
    needs_torch()
    from ritornello.checkpoint import load_checkpoint
    from ritornello.corpus import Corpus
    from ritornello.evaluation import evaluate as read_pieces
    from ritornello.horizons import HorizonSchedule
    from ritornello.models import from_checkpoint
    from ritornello.recall import draw_repeats, repeat_test
    from ritornello.training.ranks import is_first, ranks_of

    if png is not None:
        check_writable(png)
    checkpoint, corpus = load_checkpoint(model), Corpus.open(data)
    network = from_checkpoint(checkpoint, memory_bytes=bytes_of(memory))
    if schedule is not None:
        if network.config.schedule is None:
            raise RitornelloError(f"{model}: is of a model without horizons; leave --schedule out")
        network = network.rescheduled(HorizonSchedule.parse(schedule, layers=network.config.schedule.layers))
    legal, recalls = checkpoint.legal if free is None else not free, []
    with ranks_of(device_named(device)) as (ranks, place):
        with count_bar("tokens") as progress:
            told = progress if is_first() else None
            how: dict[str, Any] = {"legal": legal, "lanes": lanes, "ranks": ranks, "progress": told}
            result = read_pieces(network.to(place), corpus, split.value, **how)
        if not is_first():
            return
        if repeats or png is not None:
            with count_bar("gaps") as progress:
                recalls = repeat_test(network, corpus, split.value, legal=legal, progress=progress)
    if png is not None:
        draw_repeats(recalls, png)
    figures = {
        "model": model,
        "data": corpus.name,
        "split": split.value,
        "schedule": network.config.to_json().get("schedule"),
        "memory": network.config.describe(),
        **result.figures(),
        **({"repeats": [recall.figures() for recall in recalls]} if recalls else {}),
    }
    _show(figures, as_json)


def _read_by_engine(
    model: str, data: Path, split: Split, engine: str, free: bool | None, memory_bytes: int | None
) -> dict[str, Any]:
    from ritornello.corpus import Corpus
    from ritornello.engines import load_engine
    from ritornello.evaluation import evaluate_engine

    loaded, corpus = load_engine(model, engine, memory_bytes=memory_bytes), Corpus.open(data)
    legal = loaded.legal if free is None else not free
    with count_bar("tokens") as progress:
        result = evaluate_engine(loaded, corpus, split.value, legal=legal, progress=progress)
    memory = f"engine {engine}, {loaded.begin().nbytes / 1e6:,.1f} MB of memories"
    named = {"model": model, "data": corpus.name, "split": split.value, "engine": engine, "memory": memory}
    return {**named, **result.figures()}


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    heading = (
        f"{figures['model']} on {figures['data']}, {figures['split']}: {counted(figures['pieces'], 'pieces')}, whole"
    )
    table = Table("position", "tokens", f"{figures['kind']} nats/token", title=heading)
    for row in figures["by_position"]:
        position = f"{row['from']:,} to {row['to']:,}" if row["to"] else f"{row['from']:,} on"
        table.add_row(position, f"{row['tokens']:,}", f"{row['nats_per_token']:.4f}")
    table.add_section()
    table.add_row("all", f"{figures['tokens']:,}", f"{figures['nats_per_token']:.4f}")
    output.print(table)
    output.print(
        f"perplexity {figures['perplexity']:.3f}, {figures['nats_per_note']:.3f} nats/note, "
        f"{figures['nats_per_second']:.2f} nats/second; {figures['memory']}",
        highlight=False,
    )
    if figures.get("repeats"):
        table = Table("gap, tokens", "pieces", "gain, nats/token", "95 %", title="The repeat test")
        for row in figures["repeats"]:
            interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
            table.add_row(f"{row['gap_tokens']:,}", str(row["pieces"]), f"{row['gain']:+.3f}", interval)
        output.print(table)
