"""The torch engine plays what the model computes: at any chunking, in fixed memory, beside others, a million tokens in.

Two oracles: the model's own forward over the whole text at once, and a NumPy transcript of its definition in float64
that attends over absolute positions with a mask spelt out token by token.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SEGMENT_TOKENS, random_model

from ritornello import codec
from ritornello.checkpoint import save_checkpoint
from ritornello.engines import load_engine
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models import describe_model
from ritornello.models.dsmr import DSMR, DSMRConfig

WIDTH = 32
TOLERANCE = 1e-4  # of the logits' standard deviation: float32 against float32 or float64
FAR = 1_000_000

FINITE = ("2x32, 8", "3x0", "48, 0, 16", "7, 1, 29", "0, 40, 5 sliding", "2x24 sliding")
ENDLESS = ("3xunlimited", "unlimited, 0, 24", "5, unlimited sliding")


def tiny_model(schedule: str = "32, 2x8", **sizes: int) -> DSMR:
    return random_model(11, schedule=HorizonSchedule.parse(schedule), **sizes)


def save_model(model: DSMR, folder: Path) -> Path:
    family, config = describe_model(model)
    save_checkpoint(
        folder,
        family=family,
        config=config,
        data={"name": "made up", "licence": "CC0"},
        progress={"legal": True},
        tensors={"weights": model.state_dict()},
    )
    return folder


def text(tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, codec.VOCABULARY_SIZE, tokens)


@torch.no_grad()
def forward(model: DSMR, tokens: np.ndarray) -> np.ndarray:
    """(T, V) the reference's logits, read whole from an empty state."""
    return model(torch.from_numpy(tokens)[None], model.initial_state(1))[0][0].numpy()


def chunked(session, tokens: np.ndarray, sizes) -> dict[int, np.ndarray]:
    """Logits after each read, by the position of the read's last token."""
    logits, start = {}, 0
    for size in sizes:
        if start >= len(tokens):
            break
        found = session.read(tokens[start : start + size])
        start = min(start + size, len(tokens))
        logits[start - 1] = found
    return logits


def assert_close(found: np.ndarray, expected: np.ndarray, what: object = "") -> None:
    difference = np.abs(found - expected).max() / expected.std()
    assert difference < TOLERANCE, f"{what}: logits differ by {difference:.1e} of their standard deviation"


# ---- an oracle of its own ----


def by_definition(model: DSMR, tokens: np.ndarray, first_position: int = 0) -> np.ndarray:
    """(V,) logits after the last of tokens (T,) that stand at ``first_position`` and on, with nothing before them."""
    config, weights = model.config, {name: t.double().numpy() for name, t in model.state_dict().items()}
    heads, size = config.heads, config.width // config.heads
    place = first_position + np.arange(len(tokens))
    turn = place[:, None, None] * 10_000.0 ** (-np.arange(size // 2) / (size // 2))

    def norm(x, gain=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain

    def turned(x):  # (T, H, D)
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return np.concatenate([a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)], -1)

    x = norm(weights["embedding.weight"][tokens])
    for layer, horizon in enumerate(config.schedule.horizons):
        mine = {n.split(".", 2)[2]: w for n, w in weights.items() if n.startswith(f"blocks.{layer}.")}
        qkv = norm(x, mine["attention_gain"]) @ mine["qkv.weight"].T
        q, k, v = qkv.reshape(len(x), 3, heads, size).swapaxes(0, 1)
        q, k = turned(norm(q)) * mine["sharpness"][:, :, 0][None], turned(norm(k))
        scores = np.einsum("qhd,khd->hqk", q, k) / size**0.5
        scores = np.where(spelt_out(place, horizon, config), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(len(x), -1) @ mine["out.weight"].T
        gate, up = np.split(norm(x, mine["mlp_gain"]) @ mine["gate_up.weight"].T, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ mine["down.weight"].T
    return norm(x[-1], weights["final_gain"]) @ weights["head.weight"].T


def spelt_out(place: np.ndarray, horizon: int | None, config: DSMRConfig) -> np.ndarray:
    """(T, T) what a query sees, from the two sentences of design.md, one pair at a time."""
    seen = np.zeros((len(place), len(place)), bool)
    for i, q in enumerate(place.tolist()):
        start = q - q % config.segment_tokens
        first = -1 if horizon is None else start - horizon
        if horizon is not None and config.schedule.rule == "sliding":
            first = min(start, q - horizon)
        for j, k in enumerate(place.tolist()):
            seen[i, j] = first <= k <= q
    return seen


# ---- agreement ----


@pytest.mark.parametrize("schedule", FINITE + ENDLESS)
def test_a_session_that_steps_agrees_with_the_reference_at_every_token(schedule):
    model, tokens = tiny_model(schedule), text(8 * SEGMENT_TOKENS + 5)
    expected = forward(model, tokens)
    found = chunked(TorchEngine(model).begin(), tokens, itertools.repeat(1))
    assert len(found) == len(tokens)
    for position, logits in found.items():
        assert logits.dtype == np.float32
        assert_close(logits, expected[position], position)


@pytest.mark.parametrize("size", [2, 3, 7, SEGMENT_TOKENS - 1, SEGMENT_TOKENS, SEGMENT_TOKENS + 1, 1000])
@pytest.mark.parametrize("schedule", FINITE + ENDLESS)
def test_reads_of_any_one_length_agree_with_the_reference(schedule, size):
    model, tokens = tiny_model(schedule), text(8 * SEGMENT_TOKENS + 5)
    expected = forward(model, tokens)
    for position, logits in chunked(TorchEngine(model).begin(), tokens, itertools.repeat(size)).items():
        assert_close(logits, expected[position], position)


@settings(max_examples=40, deadline=None)
@given(
    horizons=st.lists(st.none() | st.integers(0, 40), min_size=1, max_size=3),
    rule=st.sampled_from(["segment", "sliding"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=14),
)
def test_any_chunking_under_any_schedule_agrees_with_the_reference(horizons, rule, sizes):
    model = tiny_model(str(HorizonSchedule(tuple(horizons), rule)))
    tokens = text(sum(sizes))
    expected = forward(model, tokens)
    for position, logits in chunked(TorchEngine(model).begin(), tokens, sizes).items():
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


# ---- far into a piece ----


def test_after_a_million_tokens_really_read_a_session_still_agrees_with_the_definition():
    """In one layer nothing older than its horizon and the open segment matters: the definition needs only those."""
    horizon, segment_tokens = 40, 256
    model = tiny_model(str(horizon), width=8, segment_tokens=segment_tokens)
    tokens = text(FAR + 200)
    session = TorchEngine(model).begin()
    bytes_before = session.nbytes
    session.read(tokens[:FAR])
    assert session.position == FAR
    for end in (FAR + 1, FAR + 2, FAR + 200):
        found = session.read(tokens[session.position : end])
        start = (end - 1) // segment_tokens * segment_tokens - horizon
        assert_close(found, by_definition(model, tokens[start:end], start), end)
    assert session.nbytes == bytes_before


@pytest.mark.parametrize("schedule", ["2x32, 8", "48, 0, 16", "7, 1, 29", "0, 40, 5 sliding"])
def test_at_position_1000000_every_finite_schedule_agrees_with_the_definition(schedule):
    """The session begins shortly before it with an empty memory, and reads more than the model reaches back."""
    model = tiny_model(schedule)
    reach = sum(h or 0 for h in model.config.schedule.horizons) + SEGMENT_TOKENS * (model.config.schedule.layers + 1)
    first = (FAR - reach) // SEGMENT_TOKENS * SEGMENT_TOKENS
    tokens = text(FAR + 20 - first)
    session = TorchEngine(model).begin()
    session.position = first
    session.read(tokens[: FAR - first])
    for end in range(FAR + 1, FAR + 20, 6):
        found = session.read(tokens[session.position - first : end - first])
        assert_close(found, by_definition(model, tokens[: end - first], first), end)


def test_at_position_1000000_a_session_agrees_with_the_reference():
    model, tokens = tiny_model("48, 0, 16"), text(300)
    state = model.initial_state(1)._replace(position=torch.tensor([FAR]))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)[None], state)[0][0].numpy()
    session = TorchEngine(model).begin()
    session.position = FAR
    for position, logits in chunked(session, tokens, itertools.cycle([1, 5, 17])).items():
        assert_close(logits, expected[position], position)


# ---- memory ----


@pytest.mark.parametrize("schedule", FINITE)
def test_memory_is_fixed_before_the_first_token_and_never_grows(schedule):
    """Room for each horizon and one segment: a key and a value of WIDTH float32 numbers each."""
    model = tiny_model(schedule)
    horizons = model.config.schedule.horizons
    declared = sum((h + SEGMENT_TOKENS) * 2 * WIDTH * 4 for h in horizons)
    session = TorchEngine(model).begin()
    assert session.nbytes == declared
    for size in itertools.islice(itertools.cycle([1, 1, 3, 40, 16, 15, 200]), 70):
        session.read(text(size))
        assert session.nbytes == declared, session.position


@pytest.mark.parametrize("schedule", ENDLESS)
def test_unlimited_layers_grow_with_the_piece_and_others_do_not(schedule):
    model = tiny_model(schedule)
    horizons = model.config.schedule.horizons
    session = TorchEngine(model).begin()
    for _ in range(60):
        session.read(text(7))
        fixed = sum((h + SEGMENT_TOKENS) * 2 * WIDTH * 4 for h in horizons if h is not None)
        growing = session.position * 2 * WIDTH * 4 * horizons.count(None)
        slack = SEGMENT_TOKENS * 2 * WIDTH * 4 * horizons.count(None)
        assert fixed + growing <= session.nbytes <= fixed + 2 * growing + slack


def test_sessions_do_not_disturb_one_another_nor_the_model():
    model = tiny_model("32, 0, unlimited")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
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
        assert torch.equal(tensor, weights[name]), name


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
    assert engine.data == {"name": "made up", "licence": "CC0"}


def test_an_unknown_engine_is_refused_naming_those_there_are(tmp_path):
    with pytest.raises(RitornelloError, match=r"unknown engine 'tuba'; there is .*torch"):
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
