"""A model on disk: a folder with one JSON file and safetensors, no pickles, loadable at any moment.

``checkpoint.json`` names the files that belong to it with their sizes and SHA-256, and is replaced in one step after
they are complete. A kill before that leaves the previous checkpoint whole; what no JSON names, the next save sweeps up.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.files import telling, whole_file, with_checksum, without_checksum
from ritornello.hub import local, remedy

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
MANIFEST = "checkpoint.json"
HUB_MANIFEST = "config.json"  # the same, in a folder as the hub has it
BYTES, SCALE = ".int8", ".scale"  # behind a matrix's name: its weights as bytes, and what 1 is in each block of a row
WIDENED = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}  # what becomes float32, as numpy names it
BUNDLED = Path(__file__).parent / "bundled"
RENAMED = {
    "sharpness": "qk_scale",
    "groups": "interleave",
    "by_title": "balance_titles",
    "growing": "horizon_warmup_share",
    "told": "label_share",
}
"""parts of tensors' names and settings of recipes, as older files have them and as they are called now"""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds. Tensors are read when asked for."""

    folder: Path
    family: str
    config: dict[str, Any]
    trained_on: dict[str, Any]
    """name and licence of the data, ``shortest_s`` of its performances; ``data`` in the file"""
    run: dict[str, Any]
    """of the training: steps, tokens, seconds, nats/token, recipe, feed state; ``progress`` in the file"""
    files: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def legal(self) -> bool:
        """Whether it was trained under the grammar."""
        return bool(self.run.get("legal"))

    def tensors(self, name: str = "weights") -> dict[str, Tensor]:
        """The tensors of one file, on the CPU. Raises RitornelloError if it is missing or damaged."""
        from safetensors.torch import load

        content = self.content(name)
        try:
            stored = {renamed(key): tensor for key, tensor in load(content).items()}
        except SafetensorError as error:
            raise RitornelloError(f"{self._path(name)}: not a safetensors file ({error})") from None
        return {key: _matrix(stored, key) if key + BYTES in stored else stored[key] for key in _names(stored)}

    def arrays(self, name: str = "weights") -> Mapping[str, NDArray[np.float32]]:
        """The same as float32 arrays, without torch, each widened when it is asked for. Raises as `tensors` does."""
        try:
            return _Widened({renamed(key): tensor for key, tensor in deserialize(self.content(name))})
        except SafetensorError as error:
            raise RitornelloError(f"{self._path(name)}: not a safetensors file ({error})") from None

    def manifest(self) -> dict[str, Any]:
        head = {"format": FORMAT, "vocabulary": codec.FINGERPRINT, "family": self.family, "config": self.config}
        return {**head, "data": self.trained_on, "progress": self.run, "files": self.files}

    def _path(self, name: str) -> Path:
        if name not in self.files:
            raise RitornelloError(f"{self.folder}: this checkpoint holds no {name}; use the run's last checkpoint")
        return self.folder / self.files[name]["file"]

    def content(self, name: str) -> bytes:
        """One file as it is. Raises RitornelloError if it is missing or damaged."""
        path = self._path(name)
        return checked_content(path, self.files[name], remedy(self.folder))


def checked_content(path: Path, entry: Mapping[str, Any], remedy: str) -> bytes:
    """A file whose bytes and sha256 an entry of a manifest names. Raises RitornelloError if it is another."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if len(content) != entry["bytes"]:
        cut = f"{len(content):,} of {entry['bytes']:,} bytes"
        raise RitornelloError(f"{path}: cut short or changed ({cut}); {remedy}")
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise RitornelloError(f"{path}: its content is not what was saved (checksum); {remedy}")
    return content


def save_checkpoint(
    folder: Path,
    *,
    family: str,
    config: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    run: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Writes a checkpoint; an earlier one in the folder is replaced only when the new one is complete.

    Of ``tensors`` each name is a safetensors file, ``weights`` among them.

    Raises:
        RitornelloError: if the folder cannot be written (no right, a full disk); nothing new is left then.
    """
    from safetensors.torch import save

    files: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    is_new = not folder.exists()
    with telling(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, group in tensors.items():
            # In memory of their own: safetensors takes no views that share.
            content = save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in group.items()})
            digest = hashlib.sha256(content).hexdigest()
            path = folder / f"{name}-{digest[:12]}.safetensors"
            if not path.exists() or path.stat().st_size != len(content):
                written.append(path)
                with whole_file(path, sync=True) as file:
                    file.write(content)
            files[name] = {"file": path.name, "bytes": len(content), "sha256": digest}
        manifest = Checkpoint(folder, family, dict(config), dict(trained_on), dict(run), files).manifest()
        with whole_file(folder / MANIFEST, sync=True) as file:
            file.write((json.dumps(with_checksum(manifest), indent=1) + "\n").encode())
    except RitornelloError:
        for path in written:
            path.unlink(missing_ok=True)
        if is_new:
            folder.rmdir()
        raise
    current = {entry["file"] for entry in files.values()}
    for path in folder.glob("*.safetensors*"):
        if path.name not in current:
            with suppress(OSError):  # the checkpoint is complete; the next save sweeps again
                path.unlink(missing_ok=True)


def checked_manifest(path: Path, remedy: str) -> dict[str, Any]:
    """A manifest of this format and vocabulary. Raises RitornelloError for another, and what damaged JSON raises."""
    manifest = dict(json.loads(path.read_text(encoding="utf-8")))
    if manifest["format"] != FORMAT:
        raise RitornelloError(f"{path}: format {manifest['format']}, this version reads {FORMAT}; update ritornello")
    manifest = without_checksum(path, manifest, "copy it again, or make it anew")
    if manifest["vocabulary"] != codec.FINGERPRINT:
        difference = f"{manifest['vocabulary']} not {codec.FINGERPRINT}"
        raise RitornelloError(f"{path}: made with another vocabulary, {difference}; {remedy}")
    return manifest


def load_checkpoint(model: str | Path) -> Checkpoint:
    """The checkpoint in a folder, a bundled one by name, or one on the hub; a run's folder stands for its best.

    Raises:
        RitornelloError: if there is none, or it was made with another vocabulary or by another version.
    """
    path = _find(model)
    folder = path.parent
    try:
        manifest = checked_manifest(path, "train again")
        return Checkpoint(
            folder=folder,
            family=str(manifest["family"]),
            config=dict(manifest["config"]),
            trained_on=dict(manifest["data"]),
            run=dict(manifest["progress"]),
            files={
                name: {"file": str(entry["file"]), "bytes": int(entry["bytes"]), "sha256": entry["sha256"]}
                for name, entry in dict(manifest["files"]).items()
            },
        )
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise RitornelloError(f"{path}: not a checkpoint's manifest, or cut short; {remedy(folder)}") from None


def renamed(name: str) -> str:
    """A tensor's name or a setting's as it is called now, see `RENAMED`."""
    return re.sub(r"[^./]+", lambda part: RENAMED.get(part[0], part[0]), name)


def bundled_models() -> list[str]:
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{MANIFEST}"))


def _find(model: str | Path) -> Path:
    folder = local(model, "model")
    for manifest in (folder / MANIFEST, folder / "best" / MANIFEST, folder / "last" / MANIFEST, folder / HUB_MANIFEST):
        if manifest.is_file():
            return manifest
    if isinstance(model, str) and model in bundled_models():
        return BUNDLED / model / MANIFEST
    known = ", ".join(bundled_models()) or "none"
    raise RitornelloError(f"{model}: no checkpoint there (no {MANIFEST}), and no bundled model of that name ({known})")


def _names(stored: Mapping[str, Any]) -> list[str]:
    """Of the tensors in a file, a matrix that is stored in two parts among them once."""
    scales = {name.removesuffix(BYTES) + SCALE for name in stored if name.endswith(BYTES)}
    return [name.removesuffix(BYTES) for name in stored if name not in scales]


def _matrix(stored: Mapping[str, Any], name: str) -> Any:
    """A matrix (N, K) of bytes (N, K / block, block) and scales (N, K / block): weight = (byte - 128) x scale."""
    bytes_, scale = stored[name + BYTES], stored[name + SCALE]
    return ((bytes_ - np.float32(128)) * scale[..., None]).reshape(len(bytes_), -1)


class _Widened(Mapping[str, NDArray[np.float32]]):
    """Tensors as the library reads them: dtype, shape and little-endian bytes. One at a time is twice as large."""

    def __init__(self, tensors: dict[str, dict[str, Any]]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name + BYTES in self._tensors:
            matrix: NDArray[np.float32] = _matrix(self, name)
            return matrix
        tensor = self._tensors[name]
        data, kind = tensor["data"], tensor["dtype"]
        if kind == "U8" and name.endswith(BYTES):
            return np.frombuffer(data, np.uint8).reshape(tensor["shape"])
        if kind not in ("BF16", *WIDENED):
            raise RitornelloError(f"the weight {name} is of the type {kind}; weights are {', '.join(WIDENED)} or BF16")
        if kind == "BF16":  # the upper half of a float32
            wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            wide = np.frombuffer(data, WIDENED[kind]).astype(np.float32)
        return wide.reshape(tensor["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(_names(self._tensors))

    def __len__(self) -> int:
        return len(_names(self._tensors))
