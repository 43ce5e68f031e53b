"""The torch engine: what it holds, what it leaves alone, how it is loaded. What all owe is in ``test_engine_law``."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from definition import FINITE, TOLERANCE, WIDTH, text, tiny_model
from tiny import SEGMENT_TOKENS, save_model

from ritornello.engines import load_engine
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError

ENDLESS = ("3xunlimited", "unlimited, 0, 24", "5, unlimited sliding")


# ---- memory ----


def test_memory_matters_in_these_models():
    """Else agreement would prove nothing: a token one horizon ago changes the logits."""
    tokens = text(3 * SEGMENT_TOKENS)
    other = tokens.copy()
    other[4] += 1
    for schedule in ("32, 2x8", *ENDLESS):
        model = tiny_model(schedule)
        logits, changed = (TorchEngine(model).begin().read(t) for t in (tokens, other))
        assert np.abs(changed - logits).max() > 100 * TOLERANCE * logits.std(), schedule


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


def test_a_session_leaves_the_model_s_weights_as_they_are():
    model = tiny_model("32, 0, unlimited")
    weights = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.state_dict().items()}
    TorchEngine(model).begin().read(text(90))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name][0]), name
        assert tensor.stride() == weights[name][1], f"{name}: laid out otherwise"


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
