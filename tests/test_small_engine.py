"""The small engine plays what the model computes, without torch, in memory that is fixed before the first token."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import full_disk
from definition import (
    EXTRAS,
    FINITE,
    TOLERANCE,
    WIDTH,
    assert_close,
    by_definition,
    chunked,
    forward,
    returning_text,
    text,
    tiny_model,
)
from tiny import SEGMENT_TOKENS, made_up_tokens, save_model, write_corpus

from ritornello import codec
from ritornello.checkpoint import load_checkpoint, save_checkpoint
from ritornello.engines import exported, load_engine, runtime
from ritornello.engines.exported import read_manifest, write_export, write_graphs
from ritornello.engines.sizes import quantised
from ritornello.errors import RitornelloError
from ritornello.evaluation import evaluate, evaluate_engine
from ritornello.files import with_checksum
from ritornello.models import from_checkpoint
from ritornello.models.dsmr import DSMR

CHUNKS = (2, 3, 7, 9, SEGMENT_TOKENS - 1, SEGMENT_TOKENS, SEGMENT_TOKENS + 1, 63, 65, 1000)


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory):
    """Saves a model once and loads it into the engine of a name."""
    made: dict[int, str] = {}

    def load(model: DSMR, name: str = "onnx-fp32"):
        if id(model) not in made:
            made[id(model)] = str(save_model(model, tmp_path_factory.mktemp("model") / "model"))
            kept.append(model)
        return load_engine(made[id(model)], name, threads=1)

    kept: list[DSMR] = []
    return load


# ---- agreement ----


@pytest.mark.parametrize("schedule", FINITE)
def test_a_session_that_steps_agrees_with_the_reference_at_every_token(engine_of, schedule):
    model, tokens = tiny_model(schedule), text(8 * SEGMENT_TOKENS + 5)
    expected = forward(model, tokens)
    found = chunked(engine_of(model).begin(), tokens, itertools.repeat(1))
    assert len(found) == len(tokens)
    for position, logits in found.items():
        assert logits.dtype == np.float32
        assert_close(logits, expected[position], position)


@pytest.mark.parametrize("schedule", FINITE)
def test_chunks_of_any_length_agree_with_the_reference_and_give_every_token_its_logits(engine_of, schedule):
    model, tokens = tiny_model(schedule), text(8 * SEGMENT_TOKENS + 5)
    expected, engine = forward(model, tokens), engine_of(model)
    for size in CHUNKS:
        session, start = engine.begin(), 0
        while start < len(tokens):
            logits = session.score(tokens[start : start + size])
            assert logits.shape == (min(size, len(tokens) - start), codec.N_EVENTS)
            assert_close(logits, expected[start : start + size], (size, start))
            start += size


def test_segments_longer_than_a_chunk_are_read_in_parts(engine_of):
    model = tiny_model("100, 30", segment_tokens=150)
    tokens = text(700)
    assert_close(engine_of(model).begin().score(tokens), forward(model, tokens))


@pytest.mark.parametrize("extras", [*({name: value} for name, value in EXTRAS.items()), EXTRAS], ids=",".join)
@pytest.mark.parametrize("engine", ["onnx-fp32", "torch"])
def test_biases_and_hints_are_played_as_they_are_defined(engine_of, engine, extras):
    """Token by token and in chunks, across segments; and they matter."""
    model, tokens = tiny_model("40, 5", **extras), returning_text(6 * SEGMENT_TOKENS + 5)
    expected = forward(model, tokens)
    for sizes in (itertools.repeat(1), itertools.cycle((1, 9, 20, 3))):
        for position, logits in chunked(engine_of(model, engine).begin(), tokens, sizes).items():
            assert_close(logits, expected[position], position)
    assert_close(expected[-1], by_definition(model, tokens))


def test_a_session_holds_what_its_sizes_say_with_everything(engine_of):
    engine = engine_of(tiny_model("40, 5", **EXTRAS))
    session, keys = engine.begin(), (40 + 5 + 2 * SEGMENT_TOKENS) * 2 * WIDTH * 4
    strikes = 4 * (3 * 64 + 2 * 128 + 17)
    assert session.nbytes == engine.config.state_bytes == keys + strikes
    session.read(returning_text(500))
    assert session.nbytes == engine.config.state_bytes


# ---- int8 ----


def test_a_quantised_weight_is_within_half_a_step_of_what_it_was():
    matrix = np.random.default_rng(0).standard_normal((24, 96)).astype(np.float32)
    matrix[3, :32] = 0.0
    weights, scale = quantised(matrix)
    assert (weights.shape, scale.shape) == ((24, 3, 32), (24, 3))
    back = ((weights.astype(np.float64) - 128) * scale[..., None]).reshape(matrix.shape)
    steps = np.repeat(np.abs(matrix).reshape(24, 3, 32).max(-1) / 127, 32, axis=1)
    assert (np.abs(back - matrix) <= steps * 0.5001).all()
    assert not back[3, :32].any()


def test_int8_logits_are_those_of_the_quantised_weights_but_for_the_rounding_of_activations(engine_of):
    """One layer without memory, so that roundings cannot add up: 1 in 127 of each block's largest activation."""
    model, tokens = tiny_model("0"), text(40)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.items():
        if tensor.ndim == 2 and name != "embedding.weight":
            whole, scale = quantised(tensor.numpy())
            back = (whole.astype(np.float32) - 128) * scale[..., None]
            weights[name] = torch.from_numpy(back.reshape(tensor.shape))
    rounded = tiny_model("0")
    rounded.load_state_dict(weights)
    expected, exact = forward(rounded, tokens), forward(model, tokens)
    found = engine_of(model, "onnx").begin().score(tokens)
    error = np.abs(found - expected).mean() / expected.std()
    assert error < 0.02
    assert np.abs(exact - expected).max() > 100 * TOLERANCE * expected.std()  # quantised it is


@pytest.mark.parametrize("schedule", ["2x32, 8", "7, 1, 29"])
def test_int8_computes_the_same_for_a_token_whatever_is_read_with_it(engine_of, schedule):
    """Activations are rounded row by row, so neither a later token nor the padding of a chunk can change a logit."""
    engine, tokens = engine_of(tiny_model(schedule), "onnx"), text(16)
    other = np.r_[tokens[:12], (tokens[12:] + 7) % 388]
    one, two = (engine.begin().score(t)[:12] for t in (tokens, other))
    np.testing.assert_array_equal(one, two)


# ---- far into a piece ----


def test_after_a_long_stream_really_read_a_session_still_agrees_with_the_definition(engine_of):
    """In one layer nothing older than its horizon and the open segment matters: the definition needs only those."""
    horizon, segment_tokens, length = 40, 64, 200_000
    model = tiny_model(str(horizon), width=16, segment_tokens=segment_tokens)
    tokens = text(length + 100)
    session = engine_of(model).begin()
    for start in range(0, length, 6400):
        session.read(tokens[start : min(start + 6400, length)])
    assert session.position == length
    for end in range(length + 1, length + 100, 7):
        found = session.read(tokens[session.position : end])
        start = (end - 1) // segment_tokens * segment_tokens - horizon
        assert_close(found, by_definition(model, tokens[start:end], start), end)


# ---- memory ----


@pytest.mark.parametrize("schedule", FINITE)
def test_memory_is_what_is_declared_before_the_first_token_and_never_grows(engine_of, schedule):
    """Room for each horizon and one segment: a key and a value of WIDTH float32 numbers each."""
    model = tiny_model(schedule)
    declared = sum((h + SEGMENT_TOKENS) * 2 * WIDTH * 4 for h in model.config.schedule.horizons)
    engine = engine_of(model)
    assert engine.config.state_bytes == declared
    session = engine.begin()
    assert session.nbytes == declared
    session.read(text(200))
    session.read(text(1))
    tracemalloc.start()
    try:
        for _ in range(3):
            session.read(text(1))
        held = [tracemalloc.get_traced_memory()[0]]
        for _ in range(4):
            for size in itertools.islice(itertools.cycle([1, 1, 3, 40, 16, 1, 15, 200]), 80):
                session.read(text(size))
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert np.diff(held).min() < 4096, "what leaks grows every time; other threads of the process take some too"
    assert session.nbytes == declared


# ---- likelihood ----


@pytest.mark.parametrize("legal", [True, False])
def test_an_engine_gives_whole_pieces_the_likelihood_that_the_model_gives(engine_of, tmp_path, legal):
    corpus = write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(3, 40, 7, 90)})
    model, counts = tiny_model("32, 2x8"), []
    found = evaluate_engine(
        engine_of(model), corpus, "validation", legal=legal, progress=lambda done, total: counts.append((done, total))
    )
    expected = evaluate(model, corpus, "validation", legal=legal)
    assert [len(piece) for piece in found.nats] == [record.tokens for record in corpus.pieces("validation")]
    for one, other in zip(found.nats, expected.nats):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert counts[-1] == (sum(len(piece) for piece in found.nats),) * 2
    part = evaluate_engine(engine_of(model), corpus, "validation", legal=legal, pieces=[2])
    np.testing.assert_array_equal(part.nats[0], found.nats[2])


# ---- exports ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_model(tiny_model("32, 2x8"), tmp_path_factory.mktemp("saved") / "model")


@pytest.mark.parametrize(("precision", "engine"), [("fp32", "onnx-fp32"), ("int8", "onnx")])
def test_an_exported_folder_plays_as_the_checkpoint_does_and_needs_no_onnx(saved, tmp_path, precision, engine):
    write_export(str(saved), tmp_path / "out", precision)
    tokens = text(70)
    expected = load_engine(str(saved), engine).begin().score(tokens)
    np.testing.assert_array_equal(load_engine(str(tmp_path / "out"), engine).begin().score(tokens), expected)
    program = (
        "import sys; sys.modules['onnx'] = None; sys.modules['torch'] = None\n"
        "import numpy as np\nfrom ritornello.engines import load_engine\n"
        f"session = load_engine({str(tmp_path / 'out')!r}, {engine!r}).begin()\n"
        "print(session.read(np.array([389])).argmax())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) == load_engine(str(saved), engine).begin().read(np.array([codec.START])).argmax()


def test_an_exported_graph_runs_in_plain_onnxruntime_from_its_file_alone(saved, tmp_path):
    """A device maker's program: no code of ours, zeros as memory, nothing of it visible."""
    write_export(str(saved), tmp_path / "out", "fp32")
    graph = onnxruntime.InferenceSession(str(tmp_path / "out" / "step.onnx"), providers=["CPUExecutionProvider"])
    feed = {value.name: np.zeros(value.shape, np.float32) for value in graph.get_inputs()}
    feed["tokens"] = np.array([codec.START])
    feed["cos"] += 1.0
    for name in feed:
        if name.startswith("seen."):
            feed[name] -= np.inf
    logits = graph.run(["logits"], feed)[0]
    model = from_checkpoint(load_checkpoint(saved))
    assert_close(logits[0], forward(model, np.array([codec.START]))[0])


def test_the_manifest_says_what_a_maker_of_devices_must_know(saved, tmp_path):
    write_export(str(saved), tmp_path / "out", "int8")
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["vocabulary"] == codec.FINGERPRINT
    assert manifest["schedule"] == "32, 2x8"
    assert manifest["state_bytes"] == (32 + 8 + 8 + 3 * SEGMENT_TOKENS) * 2 * WIDTH * 4
    assert manifest["data"] == {"name": "made up", "licence": "CC0"}
    for name, entry in manifest["files"].items():
        assert (tmp_path / "out" / name).stat().st_size == entry["bytes"]


def test_graphs_beside_a_checkpoint_are_used_and_need_no_onnx(tmp_path):
    folder = save_model(tiny_model("32, 2x8"), tmp_path / "model")
    write_graphs(folder)
    program = (
        "import sys; sys.modules['onnx'] = None; sys.modules['torch'] = None\n"
        "from ritornello.engines import load_engine\n"
        f"for name in ('onnx', 'onnx-fp32'):\n    print(load_engine({str(folder)!r}, name).begin().nbytes)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert len(done.stdout.split()) == 2


def test_bundled_models_have_the_graphs_that_their_config_makes_today(tmp_path):
    from ritornello.checkpoint import BUNDLED, bundled_models

    for name in bundled_models():
        made = tmp_path / name
        made.mkdir()
        for path in (BUNDLED / name).iterdir():
            if path.is_file():
                (made / path.name).symlink_to(path)
        write_graphs(made)
        for precision in ("fp32", "int8"):
            for graph in ("step.onnx", "chunk.onnx"):
                kept = (BUNDLED / name / precision / graph).read_bytes()
                assert kept == (made / precision / graph).read_bytes(), "run tools/bundle.py --graphs"


# ---- what cannot be played ----


def refused(*arguments) -> str:
    def play():
        load_engine(*arguments).begin().score(text(60))

    with pytest.raises(RitornelloError) as refusal:
        play()
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_an_unlimited_layer_is_refused_with_the_reason(tmp_path):
    folder = save_model(tiny_model("unlimited, 8"), tmp_path / "model")
    assert "unlimited layer grows with the piece" in refused(str(folder), "onnx")


def test_a_width_that_int8_cannot_divide_is_refused_naming_fp32(tmp_path):
    folder = save_model(tiny_model("8", width=24, heads=2), tmp_path / "model")
    assert "fp32" in refused(str(folder), "onnx")
    load_engine(str(folder), "onnx-fp32").begin().read(text(3))


def test_an_export_of_the_other_precision_is_refused(saved, tmp_path):
    write_export(str(saved), tmp_path / "out", "int8")
    assert "holds int8 weights, not fp32" in refused(str(tmp_path / "out"), "onnx-fp32")


@pytest.mark.parametrize("name", ["weights.safetensors", "step.onnx", "chunk.onnx"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_file_of_an_export_is_named(saved, tmp_path, name, damage):
    write_export(str(saved), tmp_path / "out", "int8")
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-5])
    message = refused(str(tmp_path / "out"), "onnx")
    assert str(path) in message
    assert "export the model again" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vocabulary", "0000", "another vocabulary"),
        ("format", 99, "update ritornello"),
        ("family", "perceivers", "the family perceivers"),
        ("config", {"schedule": "8, 8"}, "does not fit the family dsmr"),
        ("config", 3, "not an export's manifest"),
        ("files", {}, "not an export's manifest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved, tmp_path, key, value, words):
    write_export(str(saved), tmp_path / "out", "int8")
    path = tmp_path / "out" / "export.json"
    path.write_text(json.dumps(with_checksum(json.loads(path.read_text()) | {key: value})))
    assert words in refused(str(tmp_path / "out"), "onnx")


def test_a_manifest_with_a_changed_byte_is_refused_in_one_line_or_read_as_it_was(saved, tmp_path):
    write_export(str(saved), tmp_path / "out", "int8")
    path = tmp_path / "out" / "export.json"
    content, written, refusals = path.read_bytes(), read_manifest(path.parent), []
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            assert written.items() <= read_manifest(path.parent).items()
        except RitornelloError as error:
            refusals.append(str(error))
    assert refusals
    assert not any("\n" in message for message in refusals)


def test_a_graph_of_other_shapes_than_the_config_says_is_refused(saved, tmp_path):
    write_export(str(saved), tmp_path / "out", "int8")
    path = tmp_path / "out" / "export.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["schedule"] = "24, 2x8"
    path.write_text(json.dumps(with_checksum(manifest)))
    assert "shapes" in refused(str(tmp_path / "out"), "onnx")


def test_a_file_that_is_no_graph_is_refused_in_one_line(tmp_path):
    folder = save_model(tiny_model("32, 2x8"), tmp_path / "model")
    write_graphs(folder)
    (folder / "int8" / "step.onnx").write_bytes(b"no graph")
    assert "cannot load the graph" in refused(str(folder), "onnx")


def test_too_old_an_onnxruntime_is_named_with_the_remedy(saved, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.1")
    message = refused(str(saved), "onnx")
    assert "onnxruntime 1.9.1 is too old" in message
    assert "pip install -U onnxruntime" in message


def test_without_onnx_a_model_without_graphs_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "ritornello.engines.graph", raising=False)
    assert "pip install 'ritornello[export]'" in refused(str(saved), "onnx")


def test_an_export_leaves_a_folder_of_other_things_alone(saved, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(RitornelloError, match="no export of this kind; name a new folder"):
        write_export(str(saved), tmp_path / "mine", "int8")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_a_failed_export_leaves_the_earlier_one_whole_and_nothing_beside_it(saved, tmp_path):
    write_export(str(saved), tmp_path / "out", "int8")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    with full_disk(30_000), pytest.raises(RitornelloError, match="cannot be written"):
        write_export(str(saved), tmp_path / "out", "fp32")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_threads_are_chosen_sensibly_and_can_be_set(saved, monkeypatch):
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert runtime.default_threads() == 4
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert runtime.default_threads() == 1
    engine = exported.load(str(saved), "fp32", threads=3)
    options = engine.graph(1).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_weights_of_a_type_that_is_none_of_weights_are_named(tmp_path):
    model = tiny_model()
    family, config = model.config.family, model.config.to_json()
    weights = model.state_dict() | {"final_gain": torch.ones(WIDTH, dtype=torch.int64)}
    save_checkpoint(tmp_path, family=family, config=config, trained_on={}, run={}, tensors={"weights": weights})
    assert "final_gain is of the type I64" in refused(str(tmp_path), "onnx")
