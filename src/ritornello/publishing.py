"""A model as the hub has it: a card, one JSON file, safetensors and ONNX graphs; no code, no pickles.

``config.json`` is the checkpoint's manifest, so that such a folder is a model wherever one is named. Beside it lie
``model.safetensors``, the graphs that the small engine plays with these weights (``int8/``, ``fp32/``), and, for other
programs, ``onnx/``, an export with weights of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ritornello.checkpoint import HUB_MANIFEST, Checkpoint, load_checkpoint
from ritornello.engines.exported import write_export, write_graphs
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.hub import upload
from ritornello.models.config import read_config

WEIGHTS = "model.safetensors"
CARD = "MODEL_CARD.md"  # of a bundled model
KEPT = ("step", "tokens", "best", "legal", "precision", "recipe")  # of a run's progress
LICENCES = {
    "apache-2.0": "apache-2.0",
    "cc0": "cc0-1.0",
    "cc0 1.0": "cc0-1.0",
    **{f"{name} 4.0": f"{name.replace(' ', '-')}-4.0" for name in ("cc by", "cc by-sa", "cc by-nc", "cc by-nc-sa")},
}
"""The hub's identifiers of licences, by their names here."""


def push(model: str, repository: str, *, licence: str | None = None, private: bool = False) -> tuple[str, str]:
    """Puts a model on the hub; gives its address and the licence of its weights.

    Raises:
        RitornelloError: as `write_folder` and `ritornello.hub.upload` do.
    """
    with TemporaryDirectory() as made:
        folder = Path(made) / "model"
        licence = write_folder(model, folder, repository, licence=licence)
        return upload(folder, repository, private=private), licence


def write_folder(model: str, folder: Path, repository: str, *, licence: str | None = None) -> str:
    """Writes a model as the hub has it into a new folder; gives the licence of its weights.

    Args:
        model: a bundled model's name or a checkpoint folder.
        folder: to be made.
        repository: ``owner/name``, for the card.
        licence: where the data's is not known; else it must not contradict it.

    Raises:
        RitornelloError: for a model that cannot be read, or weights without a licence.
    """
    checkpoint = load_checkpoint(model)
    known = str(checkpoint.trained_on.get("licence", ""))
    if known and licence and licence != known:
        raise RitornelloError(f"{model}: its data are under {known!r}; leave --licence out")
    if not (known or licence):
        raise RitornelloError(f"{model}: nobody said under which licence its data are; say it with --licence")
    data = checkpoint.trained_on | {"licence": known or licence}
    content = _with_metadata(checkpoint.content("weights"), {key: str(value) for key, value in data.items()})
    entry = {"file": WEIGHTS, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    run = {key: checkpoint.run[key] for key in KEPT if key in checkpoint.run}
    manifest = {**checkpoint.manifest(), "data": data, "progress": run, "files": {"weights": entry}}
    write_whole(folder / WEIGHTS, content)
    write_whole(folder / HUB_MANIFEST, json.dumps({"model_type": "ritornello", **manifest}, indent=1) + "\n")
    has_graphs = read_config(checkpoint.family, checkpoint.config).not_exportable is None
    if has_graphs:
        write_graphs(folder)
        write_export(str(folder), folder / "onnx", "fp32")
    write_whole(folder / "README.md", _card(checkpoint, data, repository, has_graphs))
    return str(data["licence"])


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file that says more of itself: a length, a JSON header, the data."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = header.get("__metadata__", {}) | metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors lie at multiples of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _card(checkpoint: Checkpoint, data: dict[str, Any], repository: str, has_graphs: bool) -> str:
    licence, run = str(data["licence"]), checkpoint.run
    identifier = LICENCES.get(licence.casefold(), "other")
    lines = ["---", "library_name: ritornello", f"license: {identifier}"]
    if identifier == "other":
        lines.append(f"license_name: {json.dumps(re.sub(r'[^a-z0-9.]+', '-', licence.casefold()).strip('-'))}")
    lines += ["tags:", *(f"- {tag}" for tag in ("music", "midi", "piano", "music-generation"))]
    name = repository.partition("/")[2]
    if run.get("best") is not None:
        kind = "legal" if run.get("legal") else "free"
        dataset = json.dumps({"name": str(data.get("name", "")), "type": "midi", "split": "validation"})
        figure = json.dumps({"type": "nats_per_token", "name": f"{kind} nats/token", "value": run["best"]})
        lines += ["model-index:", f"- name: {json.dumps(name)}", "  results:"]
        lines += ["  - task: {type: text-to-audio, name: piano performances}"]
        lines += [f"    dataset: {dataset}", f"    metrics: [{figure}]"]
    own = checkpoint.folder / CARD
    told = own.read_text(encoding="utf-8") if own.is_file() else f"# {name}\n\nA model of piano performances."
    played = f"""
## Use

    pip install 'ritornello[hub]'
    ritornello generate piece.mid --model hf://{repository}

Weights: `model.safetensors`, trained on {data.get("name") or "data without a name"}, under **{licence}**."""
    if has_graphs:
        played += " `onnx/` is for any program that runs ONNX (its `export.json` says how)."
    return "\n".join([*lines, "---", "", told.strip(), played]) + "\n"
