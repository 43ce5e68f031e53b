"""``data maestro`` and ``data prepare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ritornello.cli.common import AsJson, app, console, count_bar

data_app = typer.Typer(help="Performances to packed corpora.")
app.add_typer(data_app, name="data")


@data_app.command(epilog="Example: ritornello data maestro data/maestro --archive maestro-v3.0.0-midi.zip")
def maestro(
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The corpus folder to make.")],
    archive: Annotated[Path | None, typer.Option(help="The archive, if it is here already.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a corpus that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch MAESTRO v3.0.0 (58 MB, CC BY-NC-SA 4.0) and pack it with its official splits."""
    from ritornello.corpus.maestro import fetch

    with count_bar() as progress:
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

    with count_bar() as progress:
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
    told = {"skipped": corpus.manifest["skipped"], "mended": corpus.manifest.get("mended", [])}
    duplicates = corpus.manifest["duplicates"]
    if as_json:
        print(json.dumps({"corpus": str(corpus.path), "splits": rows, **told, "duplicates": duplicates}))
        return
    table = Table("split", "pieces", "tokens", "notes", "hours", title=f"{corpus.name} in {corpus.path}")
    for split, row in rows.items():
        table.add_row(split, *(f"{value:,}" for value in row.values()))
    console.print(table)
    for entry in told["skipped"]:
        console.print(f"skipped {entry['file']}: {entry['reason']}")
    for what in sorted({what for entry in told["mended"] for what in entry["mended"]}):
        counts = {entry["file"]: entry["mended"][what] for entry in told["mended"] if what in entry["mended"]}
        where = next(iter(counts)) if len(counts) == 1 else f"{len(counts):,} files, the first: {next(iter(counts))}"
        console.print(f"mended: {sum(counts.values()):,} {what} in {where}")
    for entry in duplicates:
        left_out = f"; left out: {', '.join(entry['left_out'])}" if entry["left_out"] else ""
        console.print(f"equal token for token: {', '.join(entry['files'])}{left_out}")
