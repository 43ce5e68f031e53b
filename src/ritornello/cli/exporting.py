"""``export``, ``push`` and ``info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ritornello.cli.common import AsJson, Memory, app, bytes_of, console, output
from ritornello.errors import RitornelloError
from ritornello.hub import is_on_hub
from ritornello.rendering.scene import clock


@app.command(epilog="Example: ritornello export base base-onnx --int8")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model's name or a checkpoint folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The folder to write; an earlier export is replaced.")],
    int8: Annotated[bool, typer.Option("--int8", help="Weights in a byte each, with a scale for every block.")] = False,
    memory: Memory = None,
    web: Annotated[bool, typer.Option("--web", help="The studio's page with the model, for any static host.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as ONNX graphs of fixed shapes, for any program that runs ONNX, or as a page that plays."""
    if web:
        if memory is not None:
            raise RitornelloError("--web exports a page with the model as it is; leave --memory out")
        _export_web(model, out, as_json)
        return
    from ritornello.engines.exported import write_export

    manifest = write_export(model, out, "int8" if int8 else "fp32", bytes_of(memory))
    if as_json:
        print(json.dumps({"folder": str(out), **manifest}, indent=1))
        return
    written = sum(entry["bytes"] for entry in manifest["files"].values())
    engine = "onnx" if int8 else "onnx-fp32"
    console.print(
        f"{out}: {_megabytes(written)}, state {_megabytes(manifest['state_bytes'])}; play it with --model {out} "
        f"--engine {engine}"
    )
    _say_licence(manifest["data"])


def _export_web(model: str, out: Path, as_json: bool) -> None:
    from ritornello.studio.static import write_web

    written = write_web(model, out)
    if as_json:
        print(json.dumps({"folder": str(out), **written}, indent=1))
        return
    console.print(
        f"{out}: {_megabytes(sum(written['files'].values()))}; put it on any web server, or try it here: "
        f"python -m http.server --directory {out}"
    )
    _say_licence({"name": written["data"], "licence": written["licence"]})


@app.command(epilog="Example: ritornello push runs/mine owner/name --licence 'CC BY 4.0'")
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundled model's name or a checkpoint folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model repository, made if need be.")],
    licence: Annotated[str | None, typer.Option(help="Of the weights, where the data's is not known.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is for its owner alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a model on the Hugging Face Hub: card, config.json, safetensors, ONNX; play it with --model hf://OWNER/NAME."""
    from ritornello.publishing import push as push_model

    address, its_licence = push_model(model, repository, licence=licence, private=private)
    if as_json:
        print(json.dumps({"address": address, "licence": its_licence}))
        return
    console.print(f"{address}: the weights are under {its_licence}; play them with --model hf://{repository}")


@app.command(epilog="Example: ritornello info base")
def info(
    thing: Annotated[
        str, typer.Argument(metavar="THING", help="A model, an exported folder, a packed corpus or a MIDI file.")
    ],
    as_json: AsJson = False,
) -> None:
    """What a thing is and how many bytes it takes, before anything is played."""
    figures = _described(thing)
    if as_json:
        print(json.dumps(figures, indent=1))
        return
    table = Table(box=SIMPLE, show_header=False, pad_edge=False)
    for name, value in figures.items():
        if name == "labels":
            value = _by_kind(value)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_spelt(key, part)}" for key, part in value.items()) or "nothing"
        table.add_row(name.replace("_", " ").removesuffix(" bytes"), Text(_spelt(name, value)))
    output.print(table)


def _by_kind(labels: list[str]) -> str:
    """What a model can be told: ``composer Bach, Chopin; density 1, 2``."""
    kinds: dict[str, list[str]] = {}
    for kind, _, value in (label.partition("=") for label in labels):
        kinds.setdefault(kind, []).append(value)
    return "; ".join(f"{kind} {', '.join(values)}" for kind, values in kinds.items()) or "none"


def _described(thing: str) -> dict[str, Any]:
    from ritornello.checkpoint import bundled_models
    from ritornello.engines import exported

    path = Path(thing)
    if (path / exported.MANIFEST).is_file():
        return _of_export(path)
    if path.is_dir() and (path / "manifest.json").is_file():
        return _of_corpus(path)
    if path.is_file():
        return _of_piece(path)
    if path.is_dir() or thing in bundled_models() or is_on_hub(thing):
        return _of_model(thing)
    raise RitornelloError(
        f"{thing}: no such file or folder, and no bundled model of that name ({', '.join(bundled_models())})"
    )


def _of_model(model: str) -> dict[str, Any]:
    from ritornello.checkpoint import load_checkpoint
    from ritornello.engines.sizes import exportable
    from ritornello.models.config import read_config

    checkpoint = load_checkpoint(model)
    figures: dict[str, Any] = {
        "model": model,
        "family": checkpoint.family,
        **{key: value for key, value in checkpoint.config.items() if key != "dropout"},
        "parameters": sum(array.size for array in checkpoint.arrays().values()),
        "file_bytes": sum(entry["bytes"] for entry in checkpoint.files.values()),
        "trained_on": checkpoint.trained_on.get("name", ""),
        "licence_of_the_weights": checkpoint.trained_on.get("licence", ""),
        "trained_tokens": checkpoint.run.get("tokens"),
        "likelihood": "legal" if checkpoint.legal else "free",
    }
    try:
        if (state_bytes := read_config(checkpoint.family, checkpoint.config).state_bytes) is not None:
            figures["state_bytes"] = state_bytes
        return figures | _played(exportable(checkpoint.family, checkpoint.config), ("int8", "fp32"))
    except RitornelloError as error:
        return figures | {"small_engine": f"cannot play it: {error}"}


def _of_export(folder: Path) -> dict[str, Any]:
    from ritornello.engines.exported import read_manifest
    from ritornello.engines.sizes import exportable

    manifest = read_manifest(folder)
    return {
        "export": str(folder),
        "family": manifest["family"],
        **{key: value for key, value in manifest["config"].items() if key != "dropout"},
        "vocabulary": manifest["vocabulary"],
        "file_bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "trained_on": manifest["data"].get("name", ""),
        "licence_of_the_weights": manifest["data"].get("licence", ""),
        **_played(exportable(manifest["family"], manifest["config"]), (manifest["precision"],)),
    }


def _played(sizes: Any, precisions: tuple[Any, ...]) -> dict[str, Any]:
    from ritornello.engines.sizes import weight_bytes

    return {
        "horizons_tokens": ", ".join(f"{h:,}" for h in sizes.horizons),
        "state_bytes": sizes.state_bytes,
        "matrix_bytes": {precision: weight_bytes(sizes, precision) for precision in precisions},
        "grows_with_the_piece": "no",
    }


def _of_corpus(folder: Path) -> dict[str, Any]:
    from ritornello.corpus import Corpus

    corpus = Corpus.open(folder)
    return {
        "corpus": str(folder),
        "name": corpus.name,
        "licence": corpus.licence,
        "pieces": corpus.splits(),
        "tokens": {split: sum(piece.tokens for piece in corpus.pieces(split)) for split in corpus.splits()},
        "notes": sum(piece.notes for piece in corpus.records),
        "hours": round(sum(piece.seconds for piece in corpus.records) / 3600, 2),
    }


def _of_piece(path: Path) -> dict[str, Any]:
    from ritornello import codec
    from ritornello.midi import read_midi

    piece = read_midi(path)
    return {
        "piece": str(path),
        "title": piece.title,
        "length": clock(piece.seconds),
        "seconds": round(piece.seconds, 3),
        "notes": len(piece),
        "pedal_spans": len(piece.pedals),
        "tokens": len(codec.encode(piece)),
        "mended": dict(piece.mended),
    }


def _spelt(name: str, value: Any) -> str:
    if name.endswith("_bytes") or (isinstance(value, int) and name in ("int8", "fp32")):
        return value if isinstance(value, str) else f"{_megabytes(value)} ({value:,} bytes)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _say_licence(data: dict[str, Any]) -> None:
    if data.get("licence"):
        console.print(f"the model's weights were trained on {data['name']}: {data['licence']}", style="dim")
