"""``data maestro``, ``data prepare`` and ``data merge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ritornello.cli.common import AsJson, app, console, count_bar, output
from ritornello.errors import RitornelloError, counted

data_app = typer.Typer(help="Performances to packed corpora.")
app.add_typer(data_app, name="data")

Destination = Annotated[Path, typer.Argument(metavar="DST", help="The corpus folder to make.")]
Name = Annotated[str | None, typer.Option(help="The corpus's name.")]
Overwrite = Annotated[bool, typer.Option(help="Replace a corpus that is there.")]

TOLD_GROUPS = 10  # of each kind; the report has all


@data_app.command(epilog="Example: ritornello data maestro data/maestro --archive maestro-v3.0.0-midi.zip")
def maestro(
    destination: Destination,
    archive: Annotated[Path | None, typer.Option(help="The archive, if it is here already.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fetch MAESTRO v3.0.0 (58 MB, CC BY-NC-SA 4.0) and pack it with its official splits."""
    from ritornello.corpus.maestro import fetch

    with count_bar() as progress:
        corpus = fetch(destination, archive=archive, overwrite=overwrite, progress=progress)
    show_corpus(corpus, as_json)


@data_app.command(epilog="Example: ritornello data prepare ~/midi data/mine --licence 'CC BY 4.0'")
def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A folder of MIDI files, a .tar(.gz), a .parquet, or a CSV.")
    ],
    destination: Destination,
    csv: Annotated[Path | None, typer.Option(help="A table with MAESTRO's columns; paths relative to SRC.")] = None,
    name: Name = None,
    licence: Annotated[str, typer.Option(help="The performances' licence; shown wherever weights are.")] = "",
    seed: Annotated[int, typer.Option(help="Of the splits, where the source names none.", min=0)] = 0,
    piano_only: Annotated[bool, typer.Option(help="Leave out programs other than pianos (0-7).")] = False,
    part: Annotated[
        str | None, typer.Option(metavar="I/N", help="Prepare the I-th of N parts; join them with 'data merge'.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Pack a folder, an archive or a list of performances."""
    from ritornello.corpus.prepare import prepare as prepare_corpus

    which, _, count = (part or "").partition("/")
    if part is not None and not (which.isdecimal() and count.isdecimal()):
        raise RitornelloError(f"part is {part!r}; it must be I/N, as 2/8")
    with count_bar() as progress:
        corpus = prepare_corpus(
            source,
            destination,
            csv=csv,
            seed=seed,
            name=name,
            licence=licence,
            keep_programs=range(8) if piano_only else None,
            part=(int(which), int(count)) if part else None,
            overwrite=overwrite,
            progress=progress,
        )
    show_corpus(corpus, as_json)


@data_app.command(epilog="Example: ritornello data merge data/all data/asap data/rolls --weight 1 --weight 0.5")
def merge(
    destination: Destination,
    folders: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="All parts of a corpus, or corpora.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="How often an epoch reads each piece; one for each corpus.")
    ] = None,
    name: Name = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Join the parts of a corpus, or several corpora as sources of one."""
    from ritornello.corpus.prepare import merge as merge_corpora

    show_corpus(merge_corpora(folders, destination, weights=weight, name=name, overwrite=overwrite), as_json)


def show_corpus(corpus: Any, as_json: bool, *, table: bool = True) -> None:
    """What a corpus holds, as a table or, beside another verb's output, in a line; then what the files needed."""
    from ritornello.corpus.shards import NOTHING_HELD_OUT

    rows = {
        split: {
            "pieces": len(records := corpus.pieces(split)),
            "tokens": sum(r.tokens for r in records),
            "notes": sum(r.notes for r in records),
            "hours": round(sum(r.seconds for r in records) / 3600, 2),
        }
        for split in ({} if corpus.part else corpus.splits())
    }
    report = corpus.report
    if as_json:
        print(json.dumps({"corpus": str(corpus.path), "splits": rows, **report}))
        return
    if corpus.part:
        console.print("{}: part {} of {}, {}".format(corpus.path, *corpus.part, counted(len(corpus.records), "pieces")))
    elif not table:
        parts = (f"{row['pieces']:,} of {split} ({counted(row['tokens'], 'tokens')})" for split, row in rows.items())
        console.print(f"{corpus.path}: {', '.join(parts)}")
    else:
        shown = Table("split", "pieces", "tokens", "notes", "hours", title=f"{corpus.name} in {corpus.path}")
        for split, row in rows.items():
            shown.add_row(split, *(f"{value:,}" for value in row.values()))
        output.print(shown)
    if rows and "validation" not in rows:
        console.print(NOTHING_HELD_OUT)
    _tell(report["skipped"], lambda entry: f"skipped {entry['file']}: {entry['reason']}")
    for what in sorted({what for entry in report["mended"] for what in entry["mended"]}):
        counts = {entry["file"]: entry["mended"][what] for entry in report["mended"] if what in entry["mended"]}
        where = next(iter(counts)) if len(counts) == 1 else f"{len(counts):,} files, the first: {next(iter(counts))}"
        console.print(f"mended: {counted(sum(counts.values()), what)} in {where}")
    _tell(report["duplicates"], _duplicates_text)
    _tell(report["takes"], _takes_text)


def _tell(entries: list[Any], text: Any) -> None:
    for entry in entries[:TOLD_GROUPS]:
        console.print(text(entry))
    if len(entries) > TOLD_GROUPS:
        console.print(f"... and {len(entries) - TOLD_GROUPS:,} more like this: see report.json in the corpus")


def _duplicates_text(entry: dict[str, list[str]]) -> str:
    left_out = f"; left out: {', '.join(entry['left_out'])}" if entry["left_out"] else ""
    return f"equal token for token: {', '.join(entry['files'])}{left_out}"


def _takes_text(entry: dict[str, list[str]]) -> str:
    splits = dict.fromkeys(entry["splits"])
    where = f"all in {entry['splits'][0]}" if len(splits) == 1 else f"in {' and '.join(splits)}, as the source says"
    files = entry["files"][:TOLD_GROUPS]
    more = f" and {len(entry['files']) - len(files):,} more" if len(entry["files"]) > len(files) else ""
    return f"the same music, {where}: {', '.join(files)}{more}"
