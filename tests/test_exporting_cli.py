"""``export``, ``info``, ``bench generate`` and ``evaluate --engine``: what they show, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Run, assert_refused
from conftest import made_up_piece
from definition import WIDTH, tiny_model
from tiny import SEGMENT_TOKENS, made_up_tokens, save_model, write_corpus

from ritornello import codec
from ritornello.bench import generation
from ritornello.bench.generation import Measurement, Setting, bandwidth, measure
from ritornello.checkpoint import load_checkpoint
from ritornello.engines import load_engine
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.midi import read_midi
from ritornello.models import build, from_checkpoint
from ritornello.training.recipes import recipe_named


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tiny_model("32, 2x8"), tmp_path / "model")


# ---- export and info ----


def test_an_export_plays_through_the_command_line(command: Run, model, tmp_path):
    done = command("export", model, tmp_path / "out", "--int8")
    assert done.code == 0
    assert "--engine onnx" in done.err
    assert "CC0" in done.err
    played = command("generate", tmp_path / "a.mid", "--model", tmp_path / "out", "--minutes", 0.05, "--seed", 1)
    again = command("generate", tmp_path / "b.mid", "--model", model, "--minutes", 0.05, "--seed", 1)
    assert (played.code, again.code) == (0, 0)
    one, other = (read_midi(tmp_path / name) for name in ("a.mid", "b.mid"))
    assert len(one) > 0
    np.testing.assert_array_equal(np.stack([one.onset, one.pitch]), np.stack([other.onset, other.pitch]))
    in_fp32 = ("--model", tmp_path / "out", "--engine", "onnx-fp32")
    assert_refused(command("generate", tmp_path / "c.mid", *in_fp32), "holds int8 weights", "--engine onnx,")


def test_info_of_a_model_says_its_bytes_before_anything_is_played(command: Run, model):
    figures = json.loads(command("info", model, "--json").out)
    assert figures["state_bytes"] == (32 + 8 + 8 + 3 * SEGMENT_TOKENS) * 2 * WIDTH * 4
    layer = 3 * WIDTH * WIDTH + WIDTH * WIDTH + 2 * 48 * WIDTH + 48 * WIDTH
    matrices = 3 * layer + codec.N_EVENTS * WIDTH
    assert figures["matrix_bytes"]["fp32"] == 4 * matrices
    assert (
        figures["matrix_bytes"]["int8"] == matrices + 4 * (matrices - 3 * 48 * WIDTH) // 32 + 4 * 3 * 48 * WIDTH // 16
    )
    gains = 3 * (2 * WIDTH + 2) + WIDTH
    assert figures["parameters"] == matrices + codec.VOCABULARY_SIZE * WIDTH + gains
    assert figures["licence_of_the_weights"] == "CC0"
    shown = command("info", model).out
    assert "state" in shown
    assert re.search(r"qk bias +no\b", shown)


def test_info_of_an_export_a_corpus_and_a_piece(command: Run, model, tmp_path):
    command("export", model, tmp_path / "out")
    of_export = json.loads(command("info", tmp_path / "out", "--json").out)
    assert of_export["file_bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "out").iterdir() if path.name != "export.json"
    )
    assert list(of_export["matrix_bytes"]) == ["fp32"]
    corpus = write_corpus(tmp_path / "corpus", {"train": made_up_tokens(1, 9, 5), "test": made_up_tokens(2, 4)})
    of_corpus = json.loads(command("info", tmp_path / "corpus", "--json").out)
    assert of_corpus["pieces"] == {"train": 2, "test": 1}
    assert of_corpus["notes"] == 18
    assert of_corpus["tokens"]["test"] == corpus.pieces("test")[0].tokens
    piece = made_up_piece(np.random.default_rng(0), notes=12, seconds=5.0)
    piece.write(tmp_path / "piece.mid")
    of_piece = json.loads(command("info", tmp_path / "piece.mid", "--json").out)
    assert of_piece["notes"] == 12


def test_a_model_that_the_small_engine_cannot_play_is_described_with_the_reason(command: Run, tmp_path):
    folder = save_model(tiny_model("unlimited, 8"), tmp_path / "endless")
    assert "unlimited layer" in json.loads(command("info", folder, "--json").out)["small_engine"]
    refused = command("export", folder, tmp_path / "out")
    assert refused.code == 2
    assert "unlimited layer" in refused.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [("info",), ("export",)])
def test_a_thing_that_is_not_there_is_one_line(command: Run, tmp_path, verb):
    rest = (tmp_path / "out",) if verb == ("export",) else ()
    done = command(*verb, tmp_path / "nothing", *rest)
    assert done.code == 2
    assert str(tmp_path / "nothing") in done.err
    assert done.err.count("\n") == 1


# ---- memories that are cut to a size ----

A_SLOT = 2 * WIDTH * 4
CUT = (3 * 5 + 3 * SEGMENT_TOKENS) * A_SLOT  # horizons of 5 tokens in all three layers


@torch.no_grad()
def test_every_way_to_cut_memories_reads_as_a_model_of_those_horizons(command: Run, model, tmp_path):
    assert command("export", model, tmp_path / "out", "--memory", f"{(CUT + 3 * A_SLOT - 1) / 1e3}kB").code == 0
    figures = command("info", tmp_path / "out", "--json").figures
    assert (figures["state_bytes"], figures["schedule"]) == (CUT, "3x5")
    tokens = np.r_[codec.START, made_up_tokens(3, 40)[0][:-1]].astype(np.int64)
    shorter = from_checkpoint(load_checkpoint(model)).rescheduled(HorizonSchedule((5, 5, 5)))
    expected = shorter(torch.from_numpy(tokens)[None], shorter.initial_state(1))[0][0].numpy()
    engines = {
        "export": load_engine(str(tmp_path / "out"), "onnx-fp32"),
        "torch": load_engine(str(model), "torch", memory_bytes=CUT),
        "onnx": load_engine(str(model), "onnx-fp32", memory_bytes=CUT),
    }
    for name, engine in engines.items():
        session = engine.begin()
        np.testing.assert_allclose(session.score(tokens), expected, atol=1e-4 * expected.std(), err_msg=name)
        assert session.nbytes <= CUT
    whole = load_engine(str(model), "onnx-fp32", memory_bytes=10**9).begin()
    assert np.abs(whole.score(tokens) - expected).max() > 0.01 * expected.std()
    assert whole.nbytes == (32 + 8 + 8 + 3 * SEGMENT_TOKENS) * A_SLOT


def test_the_bundled_model_plays_in_less_memory_than_its_graphs_are_for():
    session = load_engine("base", memory_bytes=20_000_000).begin()
    assert session.nbytes <= 20_000_000
    assert np.isfinite(session.read(np.array([codec.START]))).all()


def test_memory_is_an_option_of_whatever_plays_or_reads(command: Run, model, tmp_path):
    write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(3, 40, 7)})
    read = [
        command("evaluate", model, "--data", tmp_path / "corpus", *options, "--json").figures["nats_per_token"]
        for options in (["--memory", CUT], ["--schedule", "3x5"], ["--memory", CUT, "--engine", "onnx-fp32"], [])
    ]
    assert read[0] == read[1] == pytest.approx(read[2], abs=1e-5)
    assert abs(read[3] - read[0]) > 1e-4
    out = tmp_path / "out.mid"
    assert command("generate", out, "--model", model, "--minutes", 0.05, "--seed", 1, "--memory", f"{CUT}B").code == 0
    assert len(read_midi(out))


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [
        ("generate", ["--memory", "much"], ["'much' is no size", "6MB"]),
        ("generate", ["--memory", "-3MB"], ["is no size"]),
        ("generate", ["--memory", "3 TB"], ["is no size"]),
        ("generate", ["--memory", "100"], ["0.0 MB of memory are too few", "without any horizon"]),
        ("export", ["--memory", "6MB", "--web"], ["--web", "leave --memory out"]),
        ("evaluate", ["--memory", "6MB", "--schedule", "3x8"], ["--schedule and --memory"]),
    ],
)
def test_a_memory_that_is_none_is_refused(command: Run, model, tmp_path, verb, options, words):
    out = tmp_path / "out"
    places = {"generate": [out, "--model", model], "export": [model, out], "evaluate": [model, "--data", tmp_path]}
    assert_refused(command(verb, *places[verb], *options), *words)
    assert not out.exists()


def test_an_export_and_a_family_of_windows_keep_their_memories(command: Run, model, tmp_path):
    assert command("export", model, tmp_path / "small").code == 0
    out = tmp_path / "out.mid"
    asked = ("--memory", "6MB", "--minutes", 0.05)
    refused = command("generate", out, "--model", tmp_path / "small", "--engine", "onnx-fp32", *asked)
    assert_refused(refused, "an export has the memory", "--memory")
    windows = save_model(build(recipe_named("perceivers_tiny").model), tmp_path / "windows")
    refused = command("generate", out, "--model", windows, "--engine", "torch", *asked)
    assert_refused(refused, "perceivers cannot be cut", "leave --memory out")


# ---- evaluate --engine ----


def test_the_engine_reads_the_split_as_the_model_does(command: Run, model, tmp_path):
    write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(3, 40, 7)})
    whole = json.loads(command("evaluate", model, "--data", tmp_path / "corpus", "--json").out)
    options = ("--data", tmp_path / "corpus", "--engine", "onnx-fp32", "--json")
    read = json.loads(command("evaluate", model, *options).out)
    assert read["nats_per_token"] == pytest.approx(whole["nats_per_token"], abs=1e-5)
    assert (read["kind"], read["tokens"], read["pieces"]) == ("legal", whole["tokens"], 2)
    free = json.loads(command("evaluate", model, *options, "--free").out)
    assert free["nats_per_token"] > read["nats_per_token"]


def test_an_engine_takes_no_other_schedule(command: Run, model, tmp_path):
    done = command("evaluate", model, "--data", tmp_path, "--engine", "onnx", "--schedule", "uniform(0)")
    assert done.code == 2
    assert "leave --schedule and --device out" in done.err


# ---- bench generate ----


def test_a_measurement_holds_what_was_asked_for(model):
    found = measure(Setting(str(model), "onnx", tokens=50, position=100, threads=1))
    assert found.threads == 1
    assert found.state_bytes == (32 + 8 + 8 + 3 * SEGMENT_TOKENS) * 2 * WIDTH * 4
    assert 0 < found.p50_ms <= found.p99_ms <= found.slowest_ms
    assert found.tokens_per_s <= 1e3 / found.p50_ms * 2
    assert found.first_note_s > 0
    assert found.peak_bytes > 20e6  # an interpreter at the least
    assert found.bandwidth_share == pytest.approx(
        found.touched_bytes * found.tokens_per_s / found.bandwidth_bytes_per_s
    )


def test_bandwidth_grows_with_what_is_read_in_the_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(generation, "_seconds", lambda work: work() or 0.5)
    assert bandwidth(2, array_bytes=8000) == 16_000


def test_sessions_that_are_measured_begin_with_full_memories():
    class Session:
        def __init__(self, position):
            self.first = position

        def read(self, tokens):
            self.read_tokens = len(tokens)

    class Engine:
        memory_tokens = 48

        def begin(self, position):
            return Session(position)

    late = generation._Late(Engine(), 1000).begin()
    assert (late.first, late.read_tokens) == (952, 48)
    assert generation._Late(Engine(), 3).begin().first == 0


def test_the_table_the_picture_and_the_json_hold_every_engine(command: Run, model, tmp_path, monkeypatch):
    def measured(setting: Setting) -> Measurement:
        if setting.engine == "torch":
            raise RitornelloError("the torch engine needs the package torch")
        return Measurement(0.9, 400.0, 7.5, 2.4, 3.1, 9.0, 120_000_000, 4096, 50_000_000, 15_000_000, 2, 40e9)

    monkeypatch.setattr(generation, "measure", measured)
    done = command("bench", "generate", "--model", model, "--png", tmp_path / "g.png")
    assert done.code == 0
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    for words in ("onnx-fp32", "400", "2.40", "0.90", "65.0", "26.0, 65%"):
        assert words in done.out, words
    assert "torch left out" in done.err
    figures = json.loads(command("bench", "generate", "--model", model, "--json").out)
    assert [row["engine"] for row in figures["engines"]] == ["onnx", "onnx-fp32"]
    assert figures["engines"][0]["bandwidth_share"] == pytest.approx(0.65)
    asked = command("bench", "generate", "--model", model, "--engine", "torch")
    assert asked.code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tokens", 3), "tokens is 3"),
        (("--threads", 0), "threads is 0"),
        (("--position", -1), "position is -1"),
        (("--engine", "tuba"), "unknown engine"),
        (("--model", "nowhere"), "nowhere"),
        (("--png", "no/such/folder.png"), "does not exist"),
    ],
)
def test_bad_input_is_one_line(command: Run, options, words):
    done = command("bench", "generate", *options)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
