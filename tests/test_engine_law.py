"""What every engine owes, whatever it is made of: the model's own logits, in any chunks, for sessions that are apart.

Bound by the model's forward over the whole text at once, and by a NumPy transcript of the definition in float64.
"""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from definition import (
    EXTRAS,
    FAR,
    FINITE,
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
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR

ENDLESS = ("3xunlimited", "unlimited, 0, 24", "5, unlimited sliding")
BOUNDS = {"torch": st.none() | st.integers(0, 40), "onnx-fp32": st.integers(0, 40)}  # the small engine needs limits
SCHEDULES = [*itertools.product(BOUNDS, FINITE), *(("torch", schedule) for schedule in ENDLESS)]


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory):
    def load(name: str, model: DSMR):
        return load_engine(str(save_model(model, tmp_path_factory.mktemp("model") / "model")), name)

    return load


@pytest.mark.parametrize("name", BOUNDS)
@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    rule=st.sampled_from(["segment", "sliding"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    extras=st.sampled_from([{}, EXTRAS]),
)
def test_any_chunking_under_any_schedule_agrees_with_the_reference(engine_of, name, data, rule, sizes, extras):
    horizons = data.draw(st.lists(BOUNDS[name], min_size=1, max_size=3))
    model = tiny_model(str(HorizonSchedule(tuple(horizons), rule)), **extras)
    tokens = returning_text(sum(sizes))
    expected = forward(model, tokens)
    for position, logits in chunked(engine_of(name, model).begin(), tokens, sizes).items():
        assert logits.dtype == np.float32
        assert_close(logits, expected[position], position)


@pytest.mark.parametrize(("name", "schedule"), SCHEDULES)
def test_a_session_agrees_with_the_definition_written_out(engine_of, name, schedule):
    model, tokens = tiny_model(schedule), text(5 * SEGMENT_TOKENS + 3)
    session = engine_of(name, model).begin()
    session.read(tokens[:50])
    assert_close(session.read(tokens[50:]), by_definition(model, tokens))


@pytest.mark.parametrize(("name", "schedule"), [*itertools.product(BOUNDS, FINITE)])
def test_at_position_1000000_every_schedule_agrees_with_the_definition(engine_of, name, schedule):
    """The session begins shortly before it with an empty memory, and reads more than the model reaches back."""
    model = tiny_model(schedule)
    reach = sum(model.config.schedule.horizons) + SEGMENT_TOKENS * (model.config.schedule.layers + 1)
    first = (FAR - reach) // SEGMENT_TOKENS * SEGMENT_TOKENS
    tokens = text(FAR + 20 - first)
    session = engine_of(name, model).begin(first)
    session.read(tokens[: FAR - first])
    for end in range(FAR + 1, FAR + 20, 6):
        logits = session.read(tokens[session.position - first : end - first])
        assert_close(logits, by_definition(model, tokens[: end - first], first), end)


@pytest.mark.parametrize("name", BOUNDS)
def test_sessions_do_not_disturb_one_another(engine_of, name):
    engine = engine_of(name, tiny_model("32, 0, 24"))
    texts = [text(90, seed) for seed in range(3)]
    alone = [chunked(engine.begin(), tokens, itertools.repeat(5)) for tokens in texts]
    together: list[dict[int, np.ndarray]] = [{}, {}, {}]
    sessions = [engine.begin() for _ in texts]
    for start in range(0, 90, 5):
        for i in (2, 0, 1):
            together[i][start + 4] = sessions[i].read(texts[i][start : start + 5])
    for expected, logits in zip(alone, together):
        for position in expected:
            np.testing.assert_array_equal(expected[position], logits[position])


@pytest.mark.parametrize("name", BOUNDS)
def test_logits_once_given_stay_as_they_are(engine_of, name):
    session = engine_of(name, tiny_model()).begin()
    first = session.read(text(1))
    copy = first.copy()
    session.read(text(1, 3))
    session.read(text(100))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_read_of_nothing_is_a_mistake(engine_of, name):
    with pytest.raises(ValueError, match="at least one"):
        engine_of(name, tiny_model()).begin().read(np.zeros(0, int))


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [("torch", "torch", "'ritornello[train]'"), ("onnx", "onnxruntime", "ritornello")],
)
def test_without_its_package_one_line_says_what_to_install(name, package, install):
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ritornello.engines import load_engine\n"
        "from ritornello.errors import RitornelloError\n"
        f"try:\n    load_engine('base', {name!r})\n"
        "except RitornelloError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    needed = f"the {name} engine needs the package {package}; install it with: pip install {install}\n"
    assert done.stdout == needed
