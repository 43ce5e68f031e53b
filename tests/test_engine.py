"""The torch engine plays what the model computes, in any chunks, beside others, a million tokens in.

Its sessions are the model's own forward, which the law (``law.py``) binds. What is added here is bound by the forward
over the whole text at once, and by a NumPy transcript of the definition in float64.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from definition import (
    EXTRAS,
    FAR,
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
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SEGMENT_TOKENS, save_model

from ritornello.engines import load_engine
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule

ENDLESS = ("3xunlimited", "unlimited, 0, 24", "5, unlimited sliding")


# ---- agreement ----


@settings(max_examples=40, deadline=None)
@given(
    horizons=st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=3),
    rule=st.sampled_from(["segment", "sliding"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    extras=st.sampled_from([{}, EXTRAS]),
)
def test_any_chunking_under_any_schedule_agrees_with_the_reference(horizons, rule, sizes, extras):
    model = tiny_model(str(HorizonSchedule(tuple(horizons), rule)), **extras)
    tokens = returning_text(sum(sizes))
    expected = forward(model, tokens)
    for position, logits in chunked(TorchEngine(model).begin(), tokens, sizes).items():
        assert logits.dtype == np.float32
        assert_close(logits, expected[position], position)


@pytest.mark.parametrize("schedule", FINITE + ENDLESS)
def test_a_session_agrees_with_the_definition_written_out(schedule):
    model, tokens = tiny_model(schedule), text(5 * SEGMENT_TOKENS + 3)
    session = TorchEngine(model).begin()
    session.read(tokens[:50])
    assert_close(session.read(tokens[50:]), by_definition(model, tokens))


def test_memory_matters_in_these_models():
    """Else the agreement above would prove nothing: a token one horizon ago changes the logits."""
    tokens = text(3 * SEGMENT_TOKENS)
    other = tokens.copy()
    other[4] += 1
    for schedule in ("32, 2x8", *ENDLESS):
        model = tiny_model(schedule)
        logits, changed = (TorchEngine(model).begin().read(t) for t in (tokens, other))
        assert np.abs(changed - logits).max() > 100 * TOLERANCE * logits.std(), schedule


@pytest.mark.parametrize("schedule", ["2x32, 8", "48, 0, 16", "7, 1, 29", "0, 40, 5 sliding"])
def test_at_position_1000000_every_finite_schedule_agrees_with_the_definition(schedule):
    """The session begins shortly before it with an empty memory, and reads more than the model reaches back."""
    model = tiny_model(schedule)
    reach = sum(h or 0 for h in model.config.schedule.horizons) + SEGMENT_TOKENS * (model.config.schedule.layers + 1)
    first = (FAR - reach) // SEGMENT_TOKENS * SEGMENT_TOKENS
    tokens = text(FAR + 20 - first)
    session = TorchEngine(model).begin(first)
    session.read(tokens[: FAR - first])
    for end in range(FAR + 1, FAR + 20, 6):
        found = session.read(tokens[session.position - first : end - first])
        assert_close(found, by_definition(model, tokens[: end - first], first), end)


# ---- memory ----


@pytest.mark.parametrize("schedule", FINITE)
def test_memories_are_bounded_by_what_is_declared(schedule):
    """Room for each horizon and one segment: a key and a value of WIDTH float32 numbers each."""
    model = tiny_model(schedule)
    declared = sum((h + SEGMENT_TOKENS) * 2 * WIDTH * 4 for h in model.config.schedule.horizons)
    session, held = TorchEngine(model).begin(), []
    for size in itertools.islice(itertools.cycle([1, 1, 3, 40, 16, 15, 200]), 70):
        assert session.nbytes == declared
        session.read(text(size))
        held.append(sum(array.nbytes for name, array in session.save().items() if name.startswith("state/")) - 8)
    assert sum(model.config.schedule.horizons) * 2 * WIDTH * 4 <= max(held) <= declared


@pytest.mark.parametrize("schedule", ENDLESS)
def test_unlimited_layers_grow_with_the_piece_and_others_do_not(schedule):
    model = tiny_model(schedule)
    horizons = model.config.schedule.horizons
    session = TorchEngine(model).begin()
    for _ in range(60):
        session.read(text(7))
        fixed = sum((h + SEGMENT_TOKENS) * 2 * WIDTH * 4 for h in horizons if h is not None)
        growing = session.position * 2 * WIDTH * 4 * horizons.count(None)
        assert growing <= session.nbytes <= fixed + growing


def test_sessions_do_not_disturb_one_another_nor_the_model():
    model = tiny_model("32, 0, unlimited")
    weights = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    engine, texts = TorchEngine(model), [text(90, seed) for seed in range(3)]
    alone = [chunked(engine.begin(), one, itertools.repeat(5)) for one in texts]
    together: list[dict[int, np.ndarray]] = [{}, {}, {}]
    sessions = [engine.begin() for _ in texts]
    for start in range(0, 90, 5):
        for i in (2, 0, 1):
            together[i][start + 4] = sessions[i].read(texts[i][start : start + 5])
    for one, other in zip(alone, together):
        for position in one:
            np.testing.assert_array_equal(one[position], other[position])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name][0]), name
        assert tensor.stride() == weights[name][1], f"{name}: laid out otherwise"


def test_logits_once_given_stay_as_they_are():
    session = TorchEngine(tiny_model()).begin()
    first = session.read(text(3))
    copy = first.copy()
    session.read(text(100))
    np.testing.assert_array_equal(first, copy)


def test_a_read_of_nothing_is_a_mistake():
    with pytest.raises(ValueError, match="at least one"):
        TorchEngine(tiny_model()).begin().read(np.zeros(0, int))


# ---- loading ----


def test_a_saved_model_plays_as_it_did(tmp_path):
    model, tokens = tiny_model(), text(70)
    engine = load_engine(str(save_model(model, tmp_path / "model")), "torch")
    np.testing.assert_array_equal(engine.begin().read(tokens), TorchEngine(model).begin().read(tokens))
    assert engine.name == str(tmp_path / "model")
    assert engine.trained_on == {"name": "made up", "licence": "CC0"}


def test_an_unknown_engine_is_refused_naming_those_there_are(tmp_path):
    with pytest.raises(RitornelloError, match=r"unknown engine 'tuba'; there are .*torch"):
        load_engine(str(tmp_path), "tuba")


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(RitornelloError, match="no checkpoint there") as refusal:
        load_engine(str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in str(refusal.value)


def test_without_torch_one_line_says_what_to_install():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from ritornello.engines import load_engine\n"
        "from ritornello.errors import RitornelloError\n"
        "try:\n    load_engine('small', 'torch')\n"
        "except RitornelloError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "the torch engine needs the package torch; install it with: pip install 'ritornello[train]'\n"
