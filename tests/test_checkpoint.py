"""Checkpoints: what was saved comes back to the bit, damage is told in one line, no moment leaves one unloadable."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from conftest import one_line
from tiny import DATA, random_model, save_model
from torch import Tensor

from ritornello import checkpoint as module
from ritornello import codec
from ritornello.checkpoint import MANIFEST, load_checkpoint
from ritornello.errors import RitornelloError
from ritornello.files import with_checksum
from ritornello.models import from_checkpoint
from ritornello.models.dsmr import DSMR

Tensors = Mapping[str, Mapping[str, Tensor]]


def save(folder: Path, model: DSMR, **what: Any) -> None:
    save_model(model, folder, **{"run": {}} | what)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """To the bit: dtype, shape and value."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def change(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(with_checksum(manifest | changes)))


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


# ---- round trip ----


def test_a_model_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = random_model(1, dropout=0.25)
    save(tmp_path / "here", model, run={"step": 3, "best": 2.25, "legal": True})
    found = load_checkpoint(tmp_path / "here")
    assert (found.family, found.trained_on) == ("dsmr", DATA)
    assert found.run == {"step": 3, "best": 2.25, "legal": True}
    twin = from_checkpoint(found)
    assert twin.config == model.config
    assert equal(twin.state_dict(), model.state_dict())
    tokens = torch.arange(40)[None]
    assert torch.equal(twin(tokens, twin.initial_state(1))[0], model(tokens, model.initial_state(1))[0])
    assert not twin.training


def test_tensors_of_every_kind_come_back_to_the_bit(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    training = {
        "a view": base[1:3],
        "the same storage": base.T,
        "empty": torch.zeros(2, 0, 4),
        "a number": torch.tensor(3.0),
        "counts": torch.tensor([1, -(2**60)]),
        "bytes": torch.get_rng_state(),
        "half": base.to(torch.bfloat16),
        "odd": torch.tensor([np.nan, np.inf, -0.0]),
    }
    save(tmp_path / "c", random_model(1), tensors={"weights": random_model(1).state_dict(), "training": training})
    found = load_checkpoint(tmp_path / "c").tensors("training")
    assert found.keys() == training.keys()
    for name, tensor in training.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(bits(found[name]), bits(tensor))


def test_bfloat16_weights_load_into_a_float32_model(tmp_path: Path) -> None:
    model = random_model(2)
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save(tmp_path / "half", model, tensors={"weights": halves})
    twin = from_checkpoint(load_checkpoint(tmp_path / "half"))
    for name, tensor in twin.state_dict().items():
        exact = model.state_dict()[name]
        assert tensor.dtype == torch.float32
        assert ((tensor - exact).abs() <= exact.abs() * 2**-8).all()  # bfloat16 has 8 bits of precision
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    assert weights_file(tmp_path / "half").stat().st_size < 2 * numbers + 10_000


def test_matrices_in_bytes_with_a_scale_for_each_block_are_read_as_they_are_played(tmp_path: Path) -> None:
    """Weight = (byte - 128) x scale, worked out by hand, with torch and without."""
    bytes_ = torch.tensor([[[0, 128], [255, 129]], [[1, 2], [128, 128]]], dtype=torch.uint8)
    scale = torch.tensor([[0.5, 2.0], [1.0, 3.0]])
    right = torch.tensor([[-64.0, 0.0, 254.0, 2.0], [-127.0, -126.0, 0.0, 0.0]])
    beside = torch.tensor([1.5])
    parts = {"a.weight.int8": bytes_, "a.weight.scale": scale, "b.scale": beside}
    save(tmp_path, random_model(1), tensors={"weights": parts})
    checkpoint = load_checkpoint(tmp_path)
    assert equal(checkpoint.tensors(), {"a.weight": right, "b.scale": beside})
    arrays = checkpoint.arrays()
    assert {name: array.tolist() for name, array in arrays.items()} == {"a.weight": right.tolist(), "b.scale": [1.5]}
    assert (len(arrays), arrays["a.weight"].dtype) == (2, np.float32)


def test_only_the_latest_files_stay(tmp_path: Path) -> None:
    for seed in (1, 2, 2):
        save(tmp_path, random_model(seed))
    assert len(list(tmp_path.iterdir())) == 2
    assert equal(load_checkpoint(tmp_path).tensors(), random_model(2).state_dict())


def test_the_folder_holds_nothing_that_runs_when_it_is_read(tmp_path: Path) -> None:
    save(tmp_path, random_model(1))
    content = weights_file(tmp_path).read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")  # safetensors: length, JSON header, plain numbers
    assert json.loads(content[8 : 8 + header_bytes])["head.weight"]["dtype"] == "F32"
    json.loads((tmp_path / MANIFEST).read_text())


# ---- where it is looked for ----


def test_a_run_stands_for_its_best_checkpoint_and_else_for_its_last(tmp_path: Path) -> None:
    save(tmp_path / "last", random_model(1))
    assert load_checkpoint(tmp_path).folder == tmp_path / "last"
    save(tmp_path / "best", random_model(2))
    assert load_checkpoint(tmp_path).folder == tmp_path / "best"
    assert load_checkpoint(str(tmp_path / "last")).folder == tmp_path / "last"


def test_an_unknown_name_lists_the_bundled_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    with one_line("nocturne", MANIFEST, "(none)"):
        load_checkpoint("nocturne")
    save(tmp_path / "bundled" / "small", random_model(1))
    save(tmp_path / "bundled" / "tiny", random_model(1))
    with one_line("nocturne", "small, tiny"):
        load_checkpoint("nocturne")
    assert load_checkpoint("small").folder == tmp_path / "bundled" / "small"


def test_a_folder_goes_before_a_bundled_model_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "bundled" / "small", random_model(1))
    (tmp_path / "small").mkdir()
    assert load_checkpoint("small").folder == tmp_path / "bundled" / "small"
    save(tmp_path / "small", random_model(2))
    assert load_checkpoint("small").folder == Path("small")


# ---- damage ----


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "saved", random_model(1))
    return tmp_path / "saved"


def use(folder: Path) -> DSMR:
    return from_checkpoint(load_checkpoint(folder))


@pytest.mark.parametrize("kept_share", [0.0, 0.001, 0.5, 0.999])
def test_weights_cut_short_are_refused(saved: Path, kept_share: float) -> None:
    path = weights_file(saved)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept_share * len(content))])
    with one_line(path, "cut short", f"{len(content):,}"):
        use(saved)


@pytest.mark.parametrize("place", [0, 9, 0.5, -1])
def test_one_changed_bit_of_the_weights_is_found(saved: Path, place: float) -> None:
    path = weights_file(saved)
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place == 0.5 else int(place)] ^= 1
    path.write_bytes(content)
    with one_line(path, "checksum"):
        use(saved)


def test_missing_weights_are_named(saved: Path) -> None:
    path = weights_file(saved)
    path.unlink()
    with one_line(path, "cannot be read"):
        use(saved)


def test_a_file_that_is_no_safetensors_is_refused(saved: Path) -> None:
    import hashlib

    path = weights_file(saved)
    path.write_bytes(b"\xff" * 100)
    entry = {"file": path.name, "bytes": 100, "sha256": hashlib.sha256(b"\xff" * 100).hexdigest()}
    change(saved, files={"weights": entry})
    with one_line(path, "safetensors"):
        use(saved)


def test_tensors_that_were_not_saved_are_named(saved: Path) -> None:
    with one_line(saved, "training"):
        load_checkpoint(saved).tensors("training")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"text"', "not json", "{}", '{"format": 1}', "\x00" * 50],
)
def test_a_manifest_that_is_none_is_refused(saved: Path, text: str) -> None:
    (saved / MANIFEST).write_text(text)
    with one_line(saved / MANIFEST):
        load_checkpoint(saved)


def test_a_manifest_that_is_not_text_is_refused(saved: Path) -> None:
    (saved / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with one_line(saved / MANIFEST):
        load_checkpoint(saved)


@pytest.mark.parametrize("key", ["config", "data", "progress", "files"])
@pytest.mark.parametrize("value", [None, 3, "text", [1], {"weights": {}}, {"weights": 3}])
def test_a_manifest_with_odd_entries_never_ends_in_a_traceback(saved: Path, key: str, value: Any) -> None:
    change(saved, **{key: value})
    if key in ("data", "progress") and isinstance(value, dict):
        use(saved)
        return
    with one_line():
        use(saved)


def test_a_manifest_with_a_changed_byte_is_refused_in_one_line_or_read_as_it_was(saved: Path) -> None:
    content, written = (saved / MANIFEST).read_bytes(), load_checkpoint(saved)
    rng = np.random.default_rng(0)
    refusals = []
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] = rng.integers(32, 127)
        (saved / MANIFEST).write_bytes(changed)
        try:
            assert load_checkpoint(saved) == written
        except RitornelloError as error:
            refusals.append(str(error))
    assert len(refusals) > len(content) / 3 / 4
    assert not any("\n" in message for message in refusals)


def test_a_manifest_of_before_there_were_checksums_is_read(saved: Path) -> None:
    written, manifest = load_checkpoint(saved), json.loads((saved / MANIFEST).read_text())
    assert manifest.pop("sha256")
    (saved / MANIFEST).write_text(json.dumps(manifest))
    assert load_checkpoint(saved) == written


def test_another_vocabulary_is_refused(saved: Path) -> None:
    change(saved, vocabulary="0123456789abcdef")
    with one_line(saved / MANIFEST, "vocabulary", "0123456789abcdef", codec.FINGERPRINT):
        load_checkpoint(saved)


def test_another_format_is_refused(saved: Path) -> None:
    change(saved, format=2)
    with one_line(saved / MANIFEST, "format 2", "update"):
        load_checkpoint(saved)


def test_another_family_is_refused(saved: Path) -> None:
    change(saved, family="perceiver-of-tomorrow")
    with one_line(saved, "perceiver-of-tomorrow"):
        use(saved)


def test_weights_of_another_model_are_refused(saved: Path) -> None:
    config = load_checkpoint(saved).config
    for other in ({"width": 64}, {"schedule": "3x16"}, {"mlp_width": 20}):
        change(saved, config=config | other)
        with one_line(saved, "another model"):
            use(saved)


# ---- every moment of a save ----


class Killed(BaseException):
    """What the process does not live to handle."""


class _File:
    """A file whose writes can fail half way."""

    def __init__(self, file: BinaryIO, before: Callable[[str], None]) -> None:
        self._file, self._before = file, before

    def write(self, content: bytes) -> int:
        half = len(content) // 2
        self._file.write(content[:half])
        self._before("write")
        return half + self._file.write(content[half:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def failing_at(moment: int, failure: BaseException, among: tuple[str, ...]) -> Iterator[list[str]]:
    """The file operation of that number, counted from 0, fails; the list tells those that were tried."""
    tried: list[str] = []

    def before(name: str) -> None:
        if name not in among:
            return
        tried.append(name)
        if len(tried) == moment + 1:
            raise failure

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before(name)
            return function(*args, **options)

        return call

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not {*"wx"} & {*mode}:
            return real_open(path, mode, *args, **options)
        before("open")
        return _File(real_open(path, mode, *args, **options), before)

    real_open = Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", wrapped("fsync", os.fsync))
        patch.setattr(Path, "replace", wrapped("replace", Path.replace))
        patch.setattr(Path, "unlink", wrapped("unlink", Path.unlink))
        patch.setattr(Path, "mkdir", wrapped("mkdir", Path.mkdir))
        patch.setattr(Path, "open", opened)
        yield tried


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def both(seed: int) -> Tensors:
    return {"weights": random_model(seed).state_dict(), "training": {"counts": torch.arange(seed)}}


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    old, new = random_model(1), random_model(2)
    save(tmp_path / "old", old, run={"step": 1}, tensors=both(1))
    found, moment, finished = [], 0, False
    while not finished:
        folder = tmp_path / f"at-{moment}"
        shutil.copytree(tmp_path / "old", folder)
        with failing_at(moment, Killed(), among=("mkdir", "open", "write", "fsync", "replace", "unlink")):
            try:
                save(folder, new, run={"step": 2}, tensors=both(2))
                finished = True
            except Killed:
                pass
        left = load_checkpoint(folder)
        step = left.run["step"]
        assert equal(left.tensors(), (old, new)[step - 1].state_dict())
        assert left.tensors("training")["counts"].tolist() == list(range(step))
        found.append(step)
        save(folder, random_model(3), tensors=both(3))
        assert len(content_of(folder)) == 3, "the next save does not sweep up what the kill left"
        moment += 1
    assert moment > 12
    assert found == sorted(found)
    assert set(found) == {1, 2}


def refusal(attempt: Callable[[], None]) -> str | None:
    try:
        attempt()
    except RitornelloError as error:
        return str(error)
    return None


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_full_disk_at_any_moment_of_a_save_leaves_everything_as_it_was(tmp_path: Path, reason: int) -> None:
    folder, new = tmp_path / "here", random_model(2)
    save(folder, random_model(1), run={"step": 1}, tensors=both(1))
    before = content_of(folder)
    for moment in range(100):
        failure = OSError(reason, os.strerror(reason))
        with failing_at(moment, failure, among=("mkdir", "open", "write", "fsync", "replace")):
            message = refusal(lambda: save(folder, new, run={"step": 2}, tensors=both(2)))
        if message is None:
            break
        assert str(folder) in message
        assert os.strerror(reason) in message
        assert "\n" not in message
        assert content_of(folder) == before
    assert moment == 13  # the folder, then open, write, fsync and replace of two groups of tensors and the manifest
    assert load_checkpoint(folder).run["step"] == 2


def test_a_full_disk_at_the_first_save_leaves_nothing(tmp_path: Path) -> None:
    for moment in range(13):
        failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            failing_at(moment, failure, among=("mkdir", "open", "write", "fsync", "replace")),
            one_line("No space left"),
        ):
            save(tmp_path / "first", random_model(1), tensors=both(1))
        assert not (tmp_path / "first").exists()


def test_files_that_cannot_be_swept_up_do_not_spoil_a_save(tmp_path: Path) -> None:
    save(tmp_path, random_model(1))
    with failing_at(0, PermissionError(errno.EACCES, "in use"), among=("unlink",)) as tried:
        save(tmp_path, random_model(2))
    assert tried == ["unlink"]
    assert equal(load_checkpoint(tmp_path).tensors(), random_model(2).state_dict())


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with one_line(tmp_path / "taken"):
        save(tmp_path / "taken", random_model(1))
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_weights_are_on_the_disk_before_they_are_named(tmp_path: Path) -> None:
    with failing_at(10**9, Killed(), among=("fsync", "replace")) as tried:
        save(tmp_path / "new", random_model(1), tensors=both(1))
    assert tried == ["fsync", "replace"] * 3


def test_tensors_of_older_files_have_the_names_of_today(tmp_path: Path) -> None:
    model = random_model(3)
    old = {name.replace("qk_scale", "sharpness"): weight for name, weight in model.state_dict().items()}
    states = {"optimiser/adamw/blocks.0.sharpness/exp_avg": torch.ones(2), "state/keys/0": torch.zeros(1)}
    save(tmp_path, model, tensors={"weights": old, "training": states})
    checkpoint = load_checkpoint(tmp_path)
    assert equal(from_checkpoint(checkpoint).state_dict(), model.state_dict())
    assert set(checkpoint.arrays()) == set(model.state_dict())
    assert set(checkpoint.tensors("training")) == {"optimiser/adamw/blocks.0.qk_scale/exp_avg", "state/keys/0"}
