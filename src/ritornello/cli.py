"""The command line: each verb reads its arguments, calls one function, and shows what came of it."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ritornello.errors import RitornelloError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Models complete piano performances in a memory of fixed size, and plays new ones.",
)
data_app = typer.Typer(help="Performances to packed corpora.")
app.add_typer(data_app, name="data")
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

DEFAULT_MODEL = "small"
MAX_SEED = 2**63 - 1  # torch takes no greater one


class Split(str, Enum):
    """The splits of a corpus."""

    train = "train"
    validation = "validation"
    test = "test"


Seed = Annotated[int | None, typer.Option(help="Same seed, same piece; drawn and shown if not given.", min=0)]
Minutes = Annotated[float, typer.Option(help="Length asked for; the model may end earlier.")]
FullLength = Annotated[
    bool, typer.Option("--full-length", help="Do not let the model end before the length asked for.")
]
Temperature = Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder, 0 always the likeliest event.")]
TopP = Annotated[float, typer.Option(help="Only the likeliest events that together reach this probability.")]
MinP = Annotated[float, typer.Option(help="Only events at least this share as likely as the likeliest.")]
Model = Annotated[str, typer.Option(help="A bundled model's name or a checkpoint folder.")]
EngineName = Annotated[str, typer.Option("--engine", help="What runs the model.")]
Png = Annotated[Path | None, typer.Option(help="Also draw a piano roll here.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
DataFolder = Annotated[Path, typer.Option(help="A packed corpus (see 'ritornello data').")]


@app.command(epilog="Example: ritornello generate piece.mid --minutes 3 --seed 7 --png piece.png")
def generate(
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write.")],
    minutes: Minutes = 3.0,
    full_length: FullLength = False,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = "torch",
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Play a new piece."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    performer = _performer(out, png, minutes, model, engine, temperature, top_p, min_p)
    with _music_bar(minutes * 60) as progress:
        performance = performer.generate(seconds=minutes * 60, seed=seed, may_end=not full_length, progress=progress)
    _write(performance, f"Ritornello {model}, seed {seed}", out, png, seed, performer.engine.data, as_json)


@app.command("continue", epilog="Example: ritornello continue mine.mid longer.mid --prompt-seconds 30 --minutes 2")
def continue_piece(
    source: Annotated[Path, typer.Argument(metavar="IN.mid", help="The performance to go on from.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write: prompt and continuation.")],
    prompt_seconds: Annotated[float | None, typer.Option(help="Use this much of IN.mid; all if not given.")] = None,
    minutes: Minutes = 2.0,
    full_length: FullLength = False,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = "torch",
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Go on from a piece."""
    from ritornello.midi import read_midi

    seed = secrets.randbelow(2**32) if seed is None else seed
    piece = read_midi(source)
    performer = _performer(out, png, minutes, model, engine, temperature, top_p, min_p)
    with _music_bar(minutes * 60) as progress:
        try:
            performance = performer.continue_piece(
                piece,
                seconds=minutes * 60,
                seed=seed,
                prompt_s=prompt_seconds,
                may_end=not full_length,
                progress=progress,
            )
        except RitornelloError as error:
            raise RitornelloError(f"{source}: {error}") from None
    title = f"{piece.title or source.stem}, continued by Ritornello"
    _write(performance, title, out, png, seed, performer.engine.data, as_json)


@data_app.command(epilog="Example: ritornello data maestro data/maestro --archive maestro-v3.0.0-midi.zip")
def maestro(
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The corpus folder to make.")],
    archive: Annotated[Path | None, typer.Option(help="The archive, if it is here already.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a corpus that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch MAESTRO v3.0.0 (58 MB, CC BY-NC-SA 4.0) and pack it with its official splits."""
    from ritornello.corpus.maestro import fetch

    with _count_bar() as progress:
        corpus = fetch(destination, archive=archive, overwrite=overwrite, progress=progress)
    _show_corpus(corpus, as_json)


@data_app.command(epilog="Example: ritornello data prepare ~/midi data/mine --licence 'CC BY 4.0'")
def prepare(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A folder of MIDI files, or a CSV that lists them.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The corpus folder to make.")],
    csv: Annotated[Path | None, typer.Option(help="A table with MAESTRO's columns; paths relative to SRC.")] = None,
    name: Annotated[str | None, typer.Option(help="The corpus's name.")] = None,
    licence: Annotated[str, typer.Option(help="The performances' licence; shown wherever weights are.")] = "",
    seed: Annotated[int, typer.Option(help="Of the splits, where the source names none.", min=0)] = 0,
    piano_only: Annotated[bool, typer.Option(help="Leave out programs other than pianos (0-7).")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace a corpus that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack a folder or a list of performances."""
    from ritornello.corpus.prepare import prepare as prepare_corpus

    with _count_bar() as progress:
        corpus = prepare_corpus(
            source,
            destination,
            csv=csv,
            seed=seed,
            name=name,
            licence=licence,
            keep_programs=range(8) if piano_only else None,
            overwrite=overwrite,
            progress=progress,
        )
    _show_corpus(corpus, as_json)


@app.command(epilog="Example: ritornello train --data data/asap --out runs/mine --recipe small --hours 2")
def train(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="The run's folder: best and last checkpoint, log.")],
    recipe: Annotated[str, typer.Option(help="tiny, small, base or large.")] = "small",
    hours: Annotated[float | None, typer.Option(help="Time budget; learning rates follow the clock.")] = None,
    steps: Annotated[int | None, typer.Option(help="Length in optimiser steps, instead of the recipe's.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Memory horizons, instead of the recipe's.")] = None,
    free: Annotated[bool, typer.Option(help="Train without the grammar, as the papers do.")] = False,
    init: Annotated[str | None, typer.Option(help="Start from this model's weights and sizes.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in OUT.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.", min=0, max=MAX_SEED)] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model, or fine-tune one."""
    _needs_torch()
    from ritornello.corpus import Corpus
    from ritornello.training.display import watch
    from ritornello.training.loop import train as run_training
    from ritornello.training.recipes import recipe_named

    if init is not None and schedule is not None:
        raise RitornelloError("--init and --schedule do not go together: a model keeps its horizons; leave one out")
    chosen = recipe_named(recipe).changed(schedule=schedule, legal=False if free else None)
    corpus = Corpus.open(data)
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
            device=_device(device),
            report=report,
        )
    kind = "legal" if chosen.legal else "free"
    if as_json:
        figure = best if math.isfinite(best) else None
        print(json.dumps({"run": str(out), "kind": kind, "best_validation_nats_per_token": figure}))
    else:
        reached = (
            f"best validation {best:.4f} {kind} nats/token" if math.isfinite(best) else "stopped before a validation"
        )
        console.print(f"{out}: {reached}; play it with --model {out}")


@app.command(epilog="Example: ritornello evaluate small --data data/asap --split validation --schedule 'uniform(0)'")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model's name or a checkpoint folder.")],
    data: DataFolder,
    split: Annotated[Split, typer.Option(help="Which pieces.")] = Split.validation,
    schedule: Annotated[str | None, typer.Option(help="Memory horizons, instead of the model's.")] = None,
    free: Annotated[bool | None, typer.Option("--free/--legal", help="Softmax over all or legal events.")] = None,
    lanes: Annotated[int, typer.Option(help="Pieces read side by side; no figure depends on it.", min=1)] = 8,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Full-piece likelihood: every token of every piece predicted once, each piece from an empty state."""
    _needs_torch()
    from ritornello.checkpoint import load_checkpoint
    from ritornello.corpus import Corpus
    from ritornello.evaluation import evaluate as read_pieces
    from ritornello.horizons import HorizonSchedule
    from ritornello.models import from_checkpoint

    checkpoint, corpus = load_checkpoint(model), Corpus.open(data)
    network = from_checkpoint(checkpoint)
    if schedule is not None:
        network = network.rescheduled(HorizonSchedule.parse(schedule, layers=network.config.schedule.layers))
    network.to(_device(device))
    legal = bool(checkpoint.progress.get("legal", False)) if free is None else not free
    with _count_bar() as progress:
        result = read_pieces(
            network,
            corpus,
            split.value,
            legal=legal,
            lanes=lanes,
            progress=lambda done, total: progress(done, total, "tokens"),
        )
    figures = {
        "model": model,
        "data": corpus.name,
        "split": split.value,
        "schedule": str(network.config.schedule),
        **result.figures(),
    }
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        _show_likelihood(figures)


# A mistake in the arguments, of click or of the copy of it that newer typers carry.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """The command ``ritornello``: errors that are the user's to mend are one line and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except RitornelloError as error:
        message = str(error)
    except UsageError as error:
        command = f"'{error.ctx.command_path} --help'" if error.ctx else "--help"
        message = f"{' '.join(error.format_message().split()).rstrip('.')}; see {command}"
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"{error.filename or 'the disk'}: {error.strerror}; give another place, or mend this one"
    except typer.Abort:
        sys.exit(130)
    console.print(f"error: {message}", style="red")
    sys.exit(2)


def _device(name: str | None) -> Any:
    """The torch device of a name, or the best there is."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # an assertion is what a torch without CUDA fails
        raise RitornelloError(f"device {name!r} cannot be used here; use cpu, or leave --device out") from None
    return device


def _needs_torch() -> None:
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as missing:
        raise RitornelloError(
            f"this needs the package {missing.name}; install it with: pip install 'ritornello[train]'"
        ) from None


def _performer(
    out: Path, png: Path | None, minutes: float, model: str, engine: str, temperature: float, top_p: float, min_p: float
) -> Any:
    """A performer, after a look at whether its result can be written: minutes of playing must not be lost."""
    from ritornello.performing import check_length, load
    from ritornello.sampling import Sampling

    for path in filter(None, (out, png)):
        _check_writable(path)
    if png is not None and png.absolute() == out.absolute():
        raise RitornelloError(f"{png}: cannot hold both the music and its picture; name another file with --png")
    check_length(minutes * 60)
    return load(model, engine=engine, sampling=Sampling(temperature, top_p, min_p))


def _check_writable(path: Path) -> None:
    folder = path.absolute().parent
    if path.is_dir():
        raise RitornelloError(f"{path}: is a folder; name a file in it")
    if not folder.is_dir():
        raise RitornelloError(f"{path}: its folder does not exist; name a file in a folder that does")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RitornelloError(f"{path}: its folder cannot be written; name a file in another folder")


def _write(
    performance: Any, title: str, out: Path, png: Path | None, seed: int, data: dict[str, str], as_json: bool
) -> None:
    from dataclasses import replace

    # A file name may hold bytes that are no text; a title may not.
    piece = replace(performance.piece, title=title.encode("utf-8", "replace").decode())
    piece.write(out)
    if png is not None:
        from ritornello.rendering import piano_roll

        piano_roll(piece, png, split_s=performance.prompt_s or None)
    figures = {
        "file": str(out),
        "seconds": round(piece.seconds, 2),
        "prompt_seconds": round(performance.prompt_s, 2),
        "notes": len(piece),
        "tokens": performance.tokens,
        "seed": seed,
        "ended": performance.ended,
        "weights_trained_on": data.get("name", ""),
        "weights_licence": data.get("licence", ""),
    }
    if as_json:
        print(json.dumps(figures))
    else:
        end = ", ended by the model" if performance.ended else ""
        console.print(f"{out}: {_clock(piece.seconds)}, {len(piece):,} notes, seed {seed}{end}")
        if data.get("licence"):
            console.print(f"the model's weights were trained on {data['name']}: {data['licence']}", style="dim")


def _show_corpus(corpus: Any, as_json: bool) -> None:
    rows = {
        split: {
            "pieces": len(records := corpus.pieces(split)),
            "tokens": sum(r.tokens for r in records),
            "notes": sum(r.notes for r in records),
            "hours": round(sum(r.seconds for r in records) / 3600, 2),
        }
        for split in corpus.splits()
    }
    skipped, duplicates = corpus.manifest["skipped"], corpus.manifest["duplicates"]
    if as_json:
        print(json.dumps({"corpus": str(corpus.path), "splits": rows, "skipped": skipped, "duplicates": duplicates}))
        return
    table = Table("split", "pieces", "tokens", "notes", "hours", title=f"{corpus.name} in {corpus.path}")
    for split, row in rows.items():
        table.add_row(split, *(f"{value:,}" for value in row.values()))
    console.print(table)
    for entry in skipped:
        console.print(f"skipped {entry['file']}: {entry['reason']}")
    for entry in duplicates:
        left_out = f"; left out: {', '.join(entry['left_out'])}" if entry["left_out"] else ""
        console.print(f"equal token for token: {', '.join(entry['files'])}{left_out}")


def _show_likelihood(figures: dict[str, Any]) -> None:
    heading = f"{figures['model']} on {figures['data']}, {figures['split']}: {figures['pieces']} pieces, whole"
    table = Table("position", "tokens", f"{figures['kind']} nats/token", title=heading)
    for row in figures["by_position"]:
        position = f"{row['from']:,} to {row['to']:,}" if row["to"] else f"{row['from']:,} on"
        table.add_row(position, f"{row['tokens']:,}", f"{row['nats_per_token']:.4f}")
    table.add_section()
    table.add_row("all", f"{figures['tokens']:,}", f"{figures['nats_per_token']:.4f}")
    console.print(table)
    console.print(
        f"perplexity {figures['perplexity']:.3f}, {figures['nats_per_note']:.3f} nats/note, "
        f"{figures['nats_per_second']:.2f} nats/second; horizons {figures['schedule']}",
        highlight=False,
    )


@contextmanager
def _music_bar(seconds: float) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.fields[clock]} of music"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=seconds, clock=_clock(0))
        yield lambda done: bar.update(task, completed=done, clock=_clock(done))


@contextmanager
def _count_bar() -> Iterator[Callable[[int, int, str], None]]:
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[what]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
