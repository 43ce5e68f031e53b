"""DSMR: it computes what its papers and design.md say, its config keeps to its limits. The law itself: test_law.py."""

from __future__ import annotations

import dataclasses
import functools
import json
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from numpy.typing import NDArray
from test_law import CASES, SCHEDULES, SEGMENT_TOKENS, awaken
from tiny import tiny_config
from torch import Tensor

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models import build
from ritornello.models.attention import plain, tiled
from ritornello.models.blocks import remember
from ritornello.models.config import read_config
from ritornello.models.dsmr import DSMR, DSMRConfig, DSMRState

Array = NDArray[np.float64]
TWO_SCALE = SCHEDULES["two_scale"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def small(schedule: HorizonSchedule = TWO_SCALE, **changes: Any) -> DSMRConfig:
    sizes: dict[str, Any] = {"width": 16, "heads": 2, "mlp_width": 24, "segment_tokens": SEGMENT_TOKENS}
    return DSMRConfig(schedule, **{**sizes, **changes})


def some_text(*shape: int) -> Tensor:
    return torch.randint(codec.N_EVENTS, shape)


def logits_of(model: DSMR, text: Tensor, position: int = 0) -> Tensor:
    standing = model.initial_state(len(text))._replace(position=torch.full((len(text),), position))
    with torch.no_grad():
        return model(text, standing)[0]


# What it computes.


def rms_normed(x: Array) -> Array:
    return x / np.sqrt(np.mean(x**2) + 1e-6)


def reference(model: DSMR, text: list[int], position: int) -> Array:
    """(T, V): the whole text at once, query by query and key by key; no state, no mask, no rotated keys.

    The score of a query and a key depends on how far they are apart: as complex numbers, pair d of the query times the
    conjugate of the key's, turned by (q - k) x 10,000 ** (-d / pairs) (arXiv 2104.09864, section 3.4.2).
    """
    weights = {name: weight.double().numpy() for name, weight in model.state_dict().items()}
    config = model.config
    s, heads, size = config.segment_tokens, config.heads, config.width // config.heads
    rates = np.array([10_000.0 ** -(d / (size // 2)) for d in range(size // 2)])
    x = np.stack([rms_normed(weights["embedding.weight"][token]) for token in text])
    for layer, horizon in enumerate(config.schedule.horizons):
        own = {name.removeprefix(f"blocks.{layer}."): weight for name, weight in weights.items()}
        projected = [own["qkv.weight"] @ (rms_normed(row) * own["attention_gain"]) for row in x]
        queries, keys, values = np.stack(projected).reshape(len(text), 3, heads, size).transpose(1, 0, 2, 3)
        after = []
        for i, row in enumerate(x):
            q = position + i
            start = (q // s) * s
            first = -1 if horizon is None else start - horizon
            if horizon is not None and config.schedule.rule == "sliding":
                first = min(start, q - horizon)
            seen = [j for j in range(i + 1) if position + j >= first]
            found = []
            for head in range(heads):
                scores = np.empty(len(seen))
                query = paired(rms_normed(queries[i, head])) * own["qk_scale"][head, 0, 0]
                for n, j in enumerate(seen):
                    turned = query * np.conj(paired(rms_normed(keys[j, head]))) * np.exp(1j * (i - j) * rates)
                    scores[n] = turned.real.sum() / np.sqrt(size)
                shares = np.exp(scores - scores.max())
                found.append(sum(share * values[j, head] for share, j in zip(shares / shares.sum(), seen)))
            row = row + own["out.weight"] @ np.concatenate(found)
            gate, up = np.split(own["gate_up.weight"] @ (rms_normed(row) * own["mlp_gain"]), 2)
            after.append(row + own["down.weight"] @ (gate / (1 + np.exp(-gate)) * up))
        x = np.stack(after)
    return np.stack([weights["head.weight"] @ (rms_normed(row) * weights["final_gain"]) for row in x])


def paired(x: Array) -> NDArray[np.complex128]:
    """The pairs (d, d + D/2) of (D,) as complex numbers."""
    a, b = np.split(x, 2)
    return a + 1j * b


@pytest.mark.parametrize("schedule", CASES.values(), ids=CASES)
def test_it_computes_what_a_plain_loop_over_visible_keys_computes(schedule: HorizonSchedule) -> None:
    model = awaken(DSMR(small(schedule)).double(), seed=5)
    text = some_text(2, 5 * SEGMENT_TOKENS + 2)
    logits = logits_of(model, text)
    for lane, tokens in enumerate(text.tolist()):
        assert np.abs(logits[lane].numpy() - reference(model, tokens, 0)).max() < 1e-12


@pytest.mark.parametrize("position", [0, 10, 999_996, 1_000_000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)], ids=str)
def test_it_computes_the_same_at_any_position(position: int, dtype: torch.dtype, tolerance: float) -> None:
    model = awaken(DSMR(small()).to(dtype), seed=5)
    text = some_text(1, 5 * SEGMENT_TOKENS + 2)
    found = logits_of(model, text, position)[0].double().numpy()
    assert np.abs(found - reference(model, text[0].tolist(), position)).max() < tolerance


def cosine_and_sine(turns: Decimal) -> tuple[float, float]:
    """Of an angle in turns, by power series in 60 decimal digits."""
    angle = (turns % 1) * 2 * pi()
    term, cosine, sine = Decimal(1), Decimal(0), Decimal(0)
    for n in range(80):
        if n % 2:
            sine += term if n % 4 == 1 else -term
        else:
            cosine += term if n % 4 == 0 else -term
        term *= angle / (n + 1)
    return float(cosine), float(sine)


@functools.cache
def pi() -> Decimal:
    """Machin's formula: 4 (4 arctan(1/5) - arctan(1/239))."""

    def arctan_of_inverse(x: int) -> Decimal:
        return sum((Decimal((-1) ** n) / ((2 * n + 1) * Decimal(x) ** (2 * n + 1)) for n in range(50)), Decimal(0))

    return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-7)], ids=str)
def test_rotary_angles_are_right_to_ten_million_tokens(dtype: torch.dtype, tolerance: float) -> None:
    positions = [0, 1, 10, 511, 65_537, 999_999, 1_000_000, 10_000_000]
    model = DSMR(small(width=32)).to(dtype)
    cosines, sines = model.rotation(torch.tensor(positions)[None])
    assert cosines.shape == sines.shape == (1, 1, len(positions), 8)
    with localcontext() as context:
        context.prec = 60
        for row, position in enumerate(positions):
            for d in range(8):
                angle = position * Decimal(10_000) ** (-Decimal(d) / 8)
                cosine, sine = cosine_and_sine(angle / (2 * pi()))
                assert float(cosines[0, 0, row, d]) == pytest.approx(cosine, abs=tolerance)
                assert float(sines[0, 0, row, d]) == pytest.approx(sine, abs=tolerance)


def test_a_fresh_model_predicts_from_the_last_token_alone() -> None:
    """Its branches are silent: what comes out is the embedding, normed twice, times the head."""
    model = DSMR(small())
    text = some_text(2, 3 * SEGMENT_TOKENS)
    embedding, head = model.embedding.weight.detach().numpy(), model.head.weight.detach().numpy()
    logits = logits_of(model, text).numpy()
    for lane, tokens in enumerate(text.tolist()):
        expected = np.stack([head @ rms_normed(rms_normed(embedding[token].astype(float))) for token in tokens])
        assert np.abs(logits[lane] - expected).max() < 1e-5


def test_silent_branches_learn() -> None:
    model = DSMR(small())
    text = some_text(2, 2 * SEGMENT_TOKENS)
    model(text, model.initial_state(2))[0].logsumexp(-1).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for layer in range(TWO_SCALE.layers):
        for branch in ("out", "down"):
            gradient = gradients[f"blocks.{layer}.{branch}.weight"]
            assert gradient is not None
            assert gradient.abs().max() > 0


def test_forward_without_tokens_is_a_bug_of_the_caller() -> None:
    model = DSMR(small())
    with pytest.raises(ValueError, match="at least one token"):
        model(some_text(1, 0), model.initial_state(1))


# Ways to attend, and the slots that they need.


def in_chunks(model: DSMR, text: Tensor, *lengths: int) -> tuple[Tensor, list[DSMRState]]:
    """Logits, and the states before the first chunk and after each."""
    states, parts = [model.initial_state(len(text))], []
    with torch.no_grad():
        for chunk in text.split(lengths, dim=1):
            logits, state = model(chunk, states[-1])
            parts.append(logits)
            states.append(state)
    return torch.cat(parts, dim=1), states


def slots_of(states: list[DSMRState], layer: int) -> list[int]:
    for state in states:
        assert state.keys[layer].shape == state.values[layer].shape
    return [state.keys[layer].shape[2] for state in states]


@pytest.mark.parametrize("attend", [plain, tiled], ids=lambda attend: attend.__name__)
@pytest.mark.parametrize("name", ["two_scale", "no_multiples_of_a_segment_sliding", "unlimited_among_others"])
def test_every_way_to_attend_gives_the_logits_of_the_plain_loop(name: str, attend: Any) -> None:
    model = awaken(DSMR(small(CASES[name])).double(), seed=5)
    model.attention = attend
    text = some_text(2, 5 * SEGMENT_TOKENS + 2)
    logits, _ = in_chunks(model, text, 1, 2, 7, SEGMENT_TOKENS, 1, 2 * SEGMENT_TOKENS, 3)
    for lane, tokens in enumerate(text.tolist()):
        assert np.abs(logits[lane].numpy() - reference(model, tokens, 0)).max() < 1e-12


def test_one_way_to_attend_is_that_of_every_layer_and_of_rescheduled_twins() -> None:
    attended: list[int | None] = []

    def attend(*given: Any) -> Tensor:
        attended.append(given[-1].horizon)
        return plain(*given)

    model = DSMR(small(HorizonSchedule((7, None, 0))))
    model.attention = attend
    logits_of(model, some_text(2, SEGMENT_TOKENS))
    logits_of(model.rescheduled(HorizonSchedule((0, 1, 2))), some_text(2, 1))
    assert attended == [7, None, 0, 0, 1, 2]


def test_memories_grow_with_the_piece_up_to_their_horizons() -> None:
    model = awaken(DSMR(small(HorizonSchedule((18, None, 7, 0)))), seed=5)
    _, states = in_chunks(model, some_text(2, 6 * SEGMENT_TOKENS), *[SEGMENT_TOKENS] * 6)
    assert [slots_of(states, layer) for layer in range(4)] == [
        [0, 6, 12, 18, 18, 18, 18],
        [0, 6, 12, 18, 24, 30, 36],
        [0, 6, 7, 7, 7, 7, 7],
        [0, 0, 0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("slots", range(9))
@pytest.mark.parametrize("memories", [0, 1, 4])
@pytest.mark.parametrize("length", [1, 3])
def test_what_is_remembered_is_the_end_of_memory_and_chunk(memories: int, length: int, slots: int) -> None:
    """Against a list: zeros before everything that was ever read."""
    memory, new = (torch.arange(1.0, 1 + 4 * n).view(2, 1, n, 2) for n in (memories, length))
    new = -new
    kept = remember(memory, new, slots)
    for lane in range(2):
        everything = [[0.0, 0.0]] * 9 + memory[lane, 0].tolist() + new[lane, 0].tolist()
        assert kept[lane, 0].tolist() == everything[len(everything) - slots :]
    assert kept.untyped_storage().nbytes() == 2 * slots * 2 * 4
    assert slots == 0 or kept.data_ptr() not in (memory.data_ptr(), new.data_ptr())


# Precision and dropout.


@pytest.mark.parametrize("name", ["two_scale", "unlimited", "without_memory"])
def test_half_precision_stays_finite_over_long_texts(name: str) -> None:
    model = awaken(DSMR(small(SCHEDULES[name], width=32, segment_tokens=16)), seed=11)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    text = some_text(3, 64 * 16)
    state = model.initial_state(3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for step, chunk in enumerate(text.split(16, dim=1)):
            state = model.restart(state, torch.tensor([False, step % 5 == 0, step == 40]))
            logits, state = model(chunk, state)
            assert logits.dtype == torch.float32
            assert logits.isfinite().all(), f"segment {step}"
    assert {t.dtype for t in state.keys + state.values} == {torch.bfloat16}
    # 64 segments: lane 1 restarts before the 60th (counted from 0) for the last time, lane 2 before the 40th
    assert state.position.tolist() == [64 * 16, 4 * 16, 24 * 16]


def test_half_precision_is_near_single() -> None:
    model = awaken(DSMR(small()), seed=5)
    text = some_text(2, 5 * SEGMENT_TOKENS)
    single = logits_of(model, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits_of(model, text)
    assert (half - single).std() < 0.05 * single.std()


def test_dropout_drops_in_training_only() -> None:
    model = awaken(DSMR(small(dropout=0.5)), seed=5)
    without = DSMR(small())
    without.load_state_dict(model.state_dict())
    text = some_text(2, 2 * SEGMENT_TOKENS)
    expected = logits_of(without.eval(), text)
    assert torch.equal(logits_of(model.eval(), text), expected)
    assert torch.equal(logits_of(without.train(), text), expected)
    assert not torch.equal(logits_of(model.train(), text), logits_of(model, text))


# Other horizons, same weights.


def test_a_rescheduled_model_shares_its_weights_and_follows_the_new_schedule() -> None:
    model = awaken(DSMR(small()).double(), seed=5)
    text = some_text(1, 4 * SEGMENT_TOKENS)
    before = logits_of(model, text)
    other = HorizonSchedule((0, 3, None), "sliding")
    twin = model.rescheduled(other)
    assert (twin.config, model.config) == (small(other), small())
    assert torch.equal(logits_of(model, text), before)
    assert np.abs(logits_of(twin, text)[0].numpy() - reference(twin, text[0].tolist(), 0)).max() < 1e-12
    assert [id(weight) for weight in twin.parameters()] == [id(weight) for weight in model.parameters()]
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert torch.allclose(logits_of(model.rescheduled(TWO_SCALE), text), 2 * before)


@pytest.mark.parametrize("schedule", [HorizonSchedule((9, None, 2)), HorizonSchedule((0, 9, None), "sliding")])
@pytest.mark.parametrize("most", [0, 3, 100])
def test_a_model_that_sees_less_of_its_memory_is_one_of_shorter_horizons(schedule: HorizonSchedule, most: int) -> None:
    model, text = awaken(DSMR(small(schedule)).double(), seed=5), some_text(2, 4 * SEGMENT_TOKENS)
    cut = HorizonSchedule(tuple(most if h is None else min(h, most) for h in schedule.horizons), schedule.rule)
    whole = logits_of(model, text)
    _, remembered = model(text, model.initial_state(2))
    found, after = model(text, model.initial_state(2), span_tokens=most)
    assert torch.allclose(found, logits_of(model.rescheduled(cut), text), rtol=0, atol=1e-12)
    assert torch.allclose(found, whole, rtol=0, atol=1e-9) == (most == 100)
    # It still keeps what it does not see.
    assert [k.shape for k in after.keys] == [k.shape for k in remembered.keys]


def test_evaluating_a_rescheduled_model_leaves_the_other_in_training() -> None:
    model = DSMR(small(dropout=0.5)).train()
    twin = model.rescheduled(HorizonSchedule.uniform(layers=3, horizon=0))
    assert twin.training
    twin.eval()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in twin.modules())


def test_a_schedule_of_another_depth_is_refused() -> None:
    with pytest.raises(RitornelloError, match="the schedule has 2 layers, the model 3"):
        DSMR(small()).rescheduled(HorizonSchedule((4, 4)))


# Config.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 64.0}, "width is 64.0; it must be a whole number between 1 and 1,000,000"),
        ({"width": 0}, "width is 0; it must be a whole number between 1 and 1,000,000"),
        ({"heads": 0}, "heads is 0; it must be a whole number between 1 and 1,000,000"),
        ({"mlp_width": -3}, "mlp_width is -3; it must be a whole number between 1 and 1,000,000"),
        ({"segment_tokens": 0}, "segment_tokens is 0; it must be a whole number between 1 and 1,000,000"),
        ({"segment_tokens": 1_000_001}, "segment_tokens is 1000001; it must be a whole number between 1 and 1,000,000"),
        ({"width": 18, "heads": 4}, "width 18 must be a multiple of 2 x heads (4); change either"),
        ({"width": 12, "heads": 4}, "width 12 must be a multiple of 2 x heads (4); change either"),  # head size 3
        ({"dropout": 1.0}, "dropout is 1.0; it must lie between 0 and 1, below 1"),
        ({"dropout": -0.1}, "dropout is -0.1; it must lie between 0 and 1, below 1"),
        ({"dropout": float("nan")}, "dropout is nan; it must lie between 0 and 1, below 1"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused_by_field_value_and_limit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RitornelloError) as caught:
        small(**changes)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "schedule", [*CASES.values(), HorizonSchedule((None,)), HorizonSchedule((None,), "sliding")], ids=str
)
def test_a_described_model_is_built_again_from_json(schedule: HorizonSchedule) -> None:
    model = DSMR(small(schedule, dropout=0.25))
    assert model.config.family == "dsmr"
    again = build(read_config("dsmr", json.loads(json.dumps(model.config.to_json()))))
    assert again.config == model.config
    assert {name: weight.shape for name, weight in again.state_dict().items()} == {
        name: weight.shape for name, weight in model.state_dict().items()
    }


def test_older_json_lacks_what_has_come_since() -> None:
    config = small(qk_bias=True, motif_notes=7).to_json()
    older = {name: value for name, value in config.items() if name not in ("qk_bias", "motif_notes")}
    assert read_config("dsmr", older) == small()
    with pytest.raises(RitornelloError, match="does not fit the family dsmr: it has no dropout"):
        read_config("dsmr", {name: value for name, value in older.items() if name != "dropout"})


def test_what_cannot_be_built_is_refused_in_one_line() -> None:
    config = small().to_json()
    without_schedule = {name: value for name, value in config.items() if name != "schedule"}
    for family, given, message in [
        ("lstm", config, "unknown model family 'lstm'"),
        ("dsmr", {**config, "depth": 3}, "depth"),
        ("dsmr", without_schedule, "schedule"),
        ("dsmr", {**config, "schedule": "long"}, "schedule 'long'"),
        ("dsmr", {**config, "width": "wide"}, "width is wide; it must be a whole number"),
        ("dsmr", {**config, "width": 7}, "width 7"),
    ]:
        with one_line(message):
            read_config(family, given)


def test_a_config_cannot_be_changed_once_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().width = 7  # type: ignore[misc]


@torch.no_grad()
def test_attention_begins_near_with_biases_and_even_without() -> None:
    """What a fresh layer's query gives to the key beside it, beside what it gives to one 200 tokens away, in nats."""
    differences = {}
    for qk_bias in (False, True):
        torch.manual_seed(0)
        model = DSMR(tiny_config(width=64, qk_bias=qk_bias))
        block = model.layers()[0]
        x = model.embed(torch.randint(codec.N_EVENTS, (1, 400)))
        q, k, _ = block.project(x, model.rotation(torch.arange(400)[None]))
        scores = (q @ k.mT)[0].mean(0) * q.shape[-1] ** -0.5
        differences[qk_bias] = float(scores.diagonal(-1).mean() - scores.diagonal(-200).mean())
    assert abs(differences[False]) < 0.2
    assert differences[True] > 2


def test_a_motif_memory_leaves_the_other_weights_of_a_seed_as_they_are() -> None:
    torch.manual_seed(3)
    plain = DSMR(tiny_config()).state_dict()
    torch.manual_seed(3)
    other = DSMR(tiny_config(motif_notes=8)).state_dict()
    assert set(other) - set(plain) == {"hint_embedding.weight"}
    assert all(torch.equal(tensor, other[name]) for name, tensor in plain.items())
