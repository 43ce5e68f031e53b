"""Exported models: a folder that any ONNX runtime can play, and the graphs of models that are not exported.

``export.json`` says what the folder holds, with sizes and SHA-256 of every file. ``step.onnx`` reads one token and
``chunk.onnx`` many; their weights lie in ``weights.safetensors``, which both name as their external data.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.checkpoint import FORMAT, Checkpoint, checked_content, checked_manifest, load_checkpoint
from ritornello.engines.runtime import CHUNK_TOKENS, OnnxEngine, open_graph
from ritornello.engines.sizes import (
    WEIGHT_PRECISIONS,
    WEIGHTS_FILE,
    WeightPrecision,
    exportable,
    initialisers,
    weight_bytes,
)
from ritornello.errors import RitornelloError, needing
from ritornello.files import whole_folder, with_checksum, write_whole
from ritornello.models.config import DSMRConfig, at_place, read_config

MANIFEST = "export.json"
WEB_MANIFEST = "web.json"
GRAPHS = {1: "step.onnx", CHUNK_TOKENS: "chunk.onnx"}
AGAIN = "export the model again"

Initialisers = Mapping[str, NDArray[np.generic]]


def load(
    model: str, precision: WeightPrecision, threads: int | None = None, memory_bytes: int | None = None
) -> OnnxEngine:
    """An exported folder, a bundled model or a checkpoint folder, ready to play, its memories cut to so many bytes.

    Raises:
        RitornelloError: for a model that is damaged, of another vocabulary, or that this engine cannot play.
    """
    if (Path(model) / MANIFEST).is_file():
        if memory_bytes is not None:
            raise RitornelloError(f"{model}: an export has the memory that it was made with; {AGAIN}, with --memory")
        return _open_export(Path(model), precision, threads)
    checkpoint, config, weights = _prepared(model, precision, memory_bytes)
    has_graphs = config == read_config(checkpoint.family, checkpoint.config)

    def graph(tokens: int, threads: int) -> Any:
        beside = checkpoint.folder / precision / GRAPHS[tokens]
        content = (
            beside.read_bytes() if has_graphs and beside.is_file() else _built(config, tokens, precision, weights, {})
        )
        return open_graph(content, config, tokens, precision=precision, weights=weights, threads=threads)

    named: dict[str, Any] = {"name": str(model), "trained_on": checkpoint.trained_on, "legal": checkpoint.legal}
    return OnnxEngine(config, graph, precision=precision, threads=threads, **named)


def write_export(
    model: str, folder: Path, precision: WeightPrecision, memory_bytes: int | None = None
) -> dict[str, Any]:
    """Exports a bundled model or a checkpoint, its memories cut to so many bytes; gives what ``export.json`` says.

    Raises:
        RitornelloError: for a model that cannot be exported, a folder that holds something else, or a full disk.
    """
    check_folder(folder, known_by=MANIFEST)
    with whole_folder(folder) as new:
        return _exported(model, new, precision, memory_bytes)


def _exported(model: str, folder: Path, precision: WeightPrecision, memory_bytes: int | None) -> dict[str, Any]:
    from safetensors.numpy import save

    checkpoint, config, weights = _prepared(model, precision, memory_bytes)
    content = save({name: np.ascontiguousarray(value) for name, value in weights.items()})
    spans = _spans(content)
    files = {WEIGHTS_FILE: content}
    for tokens, name in GRAPHS.items():
        files[name] = _built(config, tokens, precision, weights, spans)
    manifest = {
        "format": FORMAT,
        "vocabulary": codec.FINGERPRINT,
        "family": checkpoint.family,
        "config": config.to_json(),
        "schedule": str(config.schedule),
        "precision": precision,
        "chunk_tokens": CHUNK_TOKENS,
        "state_bytes": config.state_bytes,
        "data": checkpoint.trained_on,
        "legal": checkpoint.legal,
        "files": {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in files.items()},
    }
    files[MANIFEST] = (json.dumps(with_checksum(manifest), indent=1) + "\n").encode()
    for name, content in files.items():
        write_whole(folder / name, content)
    return manifest


def web_files(model: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    """What a browser needs of a bundled model or a checkpoint, its manifest first, and what a page tells of it.

    Matrices are stored as int8, and widened when they are loaded: in WebAssembly a step takes a quarter of the time so.

    Raises:
        RitornelloError: for a model that cannot be exported.
    """
    checkpoint, config, stored = _prepared(model, "int8")
    from safetensors.numpy import save

    wide = initialisers(checkpoint.arrays(), config, "fp32")
    content = save({name: np.ascontiguousarray(value) for name, value in wide.items()})
    spans = _spans(content)
    packed = gzip.compress(save({name: np.ascontiguousarray(value) for name, value in stored.items()}), mtime=0)
    about = {
        "name": Path(model).name,
        "data": checkpoint.trained_on.get("name", ""),
        "licence": checkpoint.trained_on.get("licence", ""),
        "parameters": sum(array.size for array in checkpoint.arrays().values()),
        "memoryBytes": weight_bytes(config, "fp32"),
        "stateBytes": config.state_bytes,
        "labels": list(config.labels),
    }
    manifest = {
        "format": FORMAT,
        "vocabulary": codec.FINGERPRINT,
        "config": {
            "horizons": config.horizons,
            "rule": config.schedule.rule,
            "segmentTokens": config.segment_tokens,
            "heads": config.heads,
            "headSize": config.head_size,
            "motifNotes": config.motif_notes,
            "recalls": config.recalls,
            "shortestSeconds": checkpoint.trained_on.get("shortest_s", 0),
        },
        "graphs": GRAPHS,
        "weights": {"file": f"{WEIGHTS_FILE}.gz", "name": WEIGHTS_FILE, "bytes": len(content), "places": spans},
        "about": about,
    }
    files = {WEB_MANIFEST: (json.dumps(manifest) + "\n").encode(), f"{WEIGHTS_FILE}.gz": packed}
    return files | {name: _built(config, tokens, "fp32", wide, spans) for tokens, name in GRAPHS.items()}, about


def write_graphs(folder: Path) -> None:
    """Puts the graphs of a checkpoint of fixed weights beside it, so that playing it does not need to build them."""
    for precision in WEIGHT_PRECISIONS:
        _, config, weights = _prepared(str(folder), precision)
        for tokens, name in GRAPHS.items():
            write_whole(folder / precision / name, _built(config, tokens, precision, weights, {}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``export.json`` says. Raises RitornelloError if it is damaged, or of another version or vocabulary."""
    path = folder / MANIFEST
    try:
        manifest = checked_manifest(path, AGAIN)
        for name in (WEIGHTS_FILE, *GRAPHS.values()):
            int(manifest["files"][name]["bytes"]), str(manifest["files"][name]["sha256"])
        dict(manifest["config"]), dict(manifest["data"]), str(manifest["precision"])
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise RitornelloError(f"{path}: not an export's manifest, or cut short; {AGAIN}") from None
    return manifest


def _prepared(
    model: str, precision: WeightPrecision, memory_bytes: int | None = None
) -> tuple[Checkpoint, DSMRConfig, Initialisers]:
    checkpoint = load_checkpoint(model)
    try:
        config = exportable(checkpoint.family, checkpoint.config, memory_bytes)
        return checkpoint, config, initialisers(checkpoint.arrays(), config, precision)
    except RitornelloError as error:
        raise RitornelloError(f"{model}: {error}") from None


def _open_export(folder: Path, precision: WeightPrecision, threads: int | None) -> OnnxEngine:
    manifest = read_manifest(folder)
    if manifest["precision"] != precision:
        plays_it, how = ("onnx-fp32", "with") if precision == "int8" else ("onnx", "without")
        raise RitornelloError(
            f"{folder}: holds {manifest['precision']} weights, not {precision}; play it with --engine {plays_it}, "
            f"or export it again {how} --int8"
        )
    try:
        config = exportable(str(manifest["family"]), manifest["config"])
    except RitornelloError as error:
        raise RitornelloError(f"{folder}: {error}") from None
    for name in (WEIGHTS_FILE, *GRAPHS.values()):
        checked_content(folder / name, manifest["files"][name], AGAIN)

    def graph(tokens: int, threads: int) -> Any:
        return open_graph(
            str(folder / GRAPHS[tokens]), config, tokens, precision=precision, weights={}, threads=threads
        )

    named: Mapping[str, Any] = {
        "name": str(folder),
        "trained_on": manifest["data"],
        "legal": bool(manifest.get("legal")),
    }
    return OnnxEngine(config, graph, precision=precision, threads=threads, **named)


def _built(
    config: DSMRConfig,
    tokens: int,
    precision: WeightPrecision,
    weights: Initialisers,
    spans: Mapping[str, tuple[int, int]],
) -> bytes:
    with needing("this model has no graph yet, and making one", "'ritornello[export]'"):
        build_graph = at_place(config.exporter or "")
    graph: bytes = build_graph(config, tokens=tokens, precision=precision, initialisers=weights, spans=spans)
    return graph


def _spans(content: bytes) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of every tensor in a safetensors file: a length, a JSON header, the data."""
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    return {
        name: (8 + header_bytes + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def check_folder(folder: Path, *, known_by: str) -> None:
    """Raises RitornelloError for a folder that holds something else than an export, which has a file ``known_by``."""
    if folder.exists() and not (folder / known_by).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RitornelloError(f"{folder}: is there and no export of this kind; name a new folder")
