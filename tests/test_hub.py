"""Models and corpora on the hub, by a server on this machine: what is pushed plays, and what goes wrong is one line."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Run, assert_refused
from hub_server import LARGE_KINDS, Hub

from ritornello.corpus import Corpus
from ritornello.files import with_checksum, without_checksum
from ritornello.hub import is_on_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # how the hub's library sends files

GENERATE = ("--minutes", "0.05", "--seed", "3", "--json")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The library reads its address once, when it is first imported."""
    hub = Hub()
    hub.start()
    with pytest.MonkeyPatch.context() as patch:
        assert "huggingface_hub" not in sys.modules
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.port}")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        pytest.importorskip("huggingface_hub")
        yield hub
    hub.stop()


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """Empty, and nothing fetched yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "writer")
    for content in (server.files, server.large, server.parts, server.sent, server.cut):
        content.clear()
    server.cut_sends, server.part_bytes = (), 10**9
    server.readers = None
    return server


@pytest.fixture
def pushed(hub: Hub, command: Run, model: Path) -> dict[str, bytes]:
    """The files of the tiny model, pushed as somebody/tiny."""
    done = command("push", model, "somebody/tiny")
    assert done.code == 0, done
    assert "CC0" in done.err
    return hub.files["models", "somebody/tiny"]


def test_a_pushed_model_plays_what_it_played_before_without_torch_or_onnx(
    pushed: dict[str, bytes], command: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = command("generate", tmp_path / "a.mid", "--model", model, *GENERATE)
    monkeypatch.setitem(sys.modules, "onnx", None)  # an import of it fails
    again = command("generate", tmp_path / "b.mid", "--model", "hf://somebody/tiny@main", *GENERATE)
    assert (played.code, again.code) == (0, 0), again
    assert again.figures["weights_licence"] == "CC0"
    assert {**again.figures, "file": ""} == {**played.figures, "file": ""}
    described = command("info", "hf://somebody/tiny", "--json").figures
    assert described["licence_of_the_weights"] == "CC0"


def test_a_pushed_model_has_a_card_its_licence_everywhere_and_no_code(pushed: dict[str, bytes]) -> None:
    assert set(pushed) == {
        *("README.md", "config.json", "model.safetensors"),
        *(f"{precision}/{graph}.onnx" for precision in ("fp32", "int8") for graph in ("step", "chunk")),
        *(f"onnx/{name}" for name in ("export.json", "step.onnx", "chunk.onnx", "weights.safetensors")),
    }
    card = pushed["README.md"].decode()
    assert card.startswith("---\nlibrary_name: ritornello\nlicense: cc0-1.0\n")
    assert "--model hf://somebody/tiny" in card
    weights = pushed["model.safetensors"]
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    assert header["__metadata__"]["licence"] == "CC0"
    config = json.loads(pushed["config.json"])
    assert (config["model_type"], config["data"]["licence"]) == ("ritornello", "CC0")


def test_a_corpus_on_the_hub_is_the_one_that_was_put_there(hub: Hub, command: Run, model: Path, corpus: Path) -> None:
    hub.files["datasets", "somebody/songs"] = {
        path.relative_to(corpus).as_posix(): path.read_bytes() for path in corpus.rglob("*") if path.is_file()
    }
    fetched = Corpus.open("hf://somebody/songs")
    assert [tuple(r) for r in fetched.table.rows] == [tuple(r) for r in Corpus.open(corpus).table.rows]
    here, there = (command("evaluate", model, "--data", d, "--json").figures for d in (corpus, "hf://somebody/songs"))
    assert here == there


def test_a_transfer_that_breaks_off_is_tried_again(hub: Hub, pushed: dict[str, bytes], command: Run) -> None:
    hub.cut["model.safetensors"] = 1
    assert command("info", "hf://somebody/tiny").code == 0
    assert hub.cut == {"model.safetensors": 0}


def test_a_transfer_that_never_ends_is_refused_and_another_try_mends_it(
    hub: Hub, pushed: dict[str, bytes], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cut["model.safetensors"] = 1000
    assert_refused(command("info", "hf://somebody/tiny"), "hf://somebody/tiny", "try again")
    hub.cut.clear()
    assert command("info", "hf://somebody/tiny").code == 0


def hashes(files: dict[str, bytes]) -> set[str]:
    """Of the large ones."""
    return {hashlib.sha256(content).hexdigest() for name, content in files.items() if name.endswith(LARGE_KINDS)}


def test_what_is_large_is_sent_by_itself_and_once(
    hub: Hub, pushed: dict[str, bytes], command: Run, model: Path
) -> None:
    assert sorted(hub.sent) == sorted((oid, "whole") for oid in hashes(pushed))
    assert command("push", model, "somebody/again").code == 0
    assert hub.files["models", "somebody/again"].keys() == pushed.keys()
    assert len(hub.sent) == len(hashes(pushed))


@pytest.mark.parametrize("part_bytes", [10**9, 20_000])
def test_a_push_that_breaks_off_is_tried_again(
    hub: Hub, command: Run, model: Path, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.part_bytes, hub.cut_sends = part_bytes, {0, 2}
    assert command("push", model, "somebody/tiny").code == 0
    files = hub.files["models", "somebody/tiny"]
    assert hashes(files) == hub.large.keys()
    assert len(set(hub.sent)) < len(hub.sent)
    assert any(part == "2" for _, part in hub.sent) == (part_bytes < 10**9)
    assert command("info", "hf://somebody/tiny").code == 0


def test_a_push_that_never_ends_changes_nothing_and_the_next_sends_what_is_missing(
    hub: Hub, command: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cut_sends = range(2, 1000)
    assert_refused(command("push", model, "somebody/tiny"), "somebody/tiny", "not sent", "try again")
    assert hub.files["models", "somebody/tiny"] == {}
    arrived = set(hub.large)
    assert len(arrived) == 2
    hub.sent.clear()
    hub.cut_sends = ()
    assert command("push", model, "somebody/tiny").code == 0
    assert {oid for oid, _ in hub.sent} == hub.large.keys() - arrived


def test_weights_that_are_not_those_of_the_manifest_are_refused(
    hub: Hub, pushed: dict[str, bytes], command: Run
) -> None:
    whole = pushed["model.safetensors"]
    pushed["model.safetensors"] = whole[:-1] + bytes([whole[-1] ^ 1])
    refused = command("info", "hf://somebody/tiny")
    assert_refused(refused, "checksum", "models--somebody--tiny", "fetched again")


def test_without_a_network_what_was_fetched_plays_and_nothing_else(
    hub: Hub, pushed: dict[str, bytes], command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert command("info", "hf://somebody/tiny").code == 0
    with hub.away():
        assert command("generate", tmp_path / "a.mid", "--model", "hf://somebody/tiny", *GENERATE).code == 0
        assert_refused(command("info", "hf://somebody/other"), "hf://somebody/other", "not reached")


def test_who_may_not_is_told_what_to_do(
    hub: Hub, pushed: dict[str, bytes], command: Run, model: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", "stranger")
    assert_refused(command("push", model, "somebody/tiny"), "somebody/tiny", "403", "hf auth login")
    hub.readers = {"writer"}
    assert_refused(command("info", "hf://somebody/tiny"), "hf://somebody/tiny", "hf auth login")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://somebody/nothing", ["is not there", "check the name"]),
        ("hf://somebody/tiny@other", ["no revision 'other'"]),
        ("hf://somebody", ["hf://owner/name"]),
        ("hf://a/b/c", ["hf://owner/name"]),
    ],
)
def test_names_that_lead_nowhere(pushed: dict[str, bytes], command: Run, name: str, words: list[str]) -> None:
    assert_refused(command("info", name), *words)


def test_weights_without_a_licence_are_not_pushed(hub: Hub, command: Run, tmp_path: Path) -> None:
    from definition import tiny_model
    from tiny import save_model

    unlicensed = save_model(tiny_model(), tmp_path / "run")
    manifest = without_checksum(unlicensed, json.loads((unlicensed / "checkpoint.json").read_text()), "")
    manifest["data"]["licence"] = ""
    (unlicensed / "checkpoint.json").write_text(json.dumps(with_checksum(manifest)))
    assert_refused(command("push", unlicensed, "somebody/tiny"), "--licence")
    assert hub.files == {}
    assert command("push", unlicensed, "somebody/tiny", "--licence", "My own terms").code == 0
    card = hub.files["models", "somebody/tiny"]["README.md"].decode()
    assert 'license: other\nlicense_name: "my-own-terms"\n' in card


def test_only_names_of_the_hub_are_taken_for_such() -> None:
    assert is_on_hub("hf://a/b")
    assert is_on_hub(Path("hf://a/b"))
    assert not is_on_hub("hf")
    assert not is_on_hub("runs/hf")
