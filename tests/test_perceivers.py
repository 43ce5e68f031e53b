"""PerceiverS: nothing hidden is seen, and cached play equals recomputation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from perceivers_oracle import (
    SIZES,
    SMALL,
    VARIETY,
    at_once,
    awake,
    only,
    some_text,
    window_by_window,
)
from scripted import Greedy
from tiny import made_up_tokens
from torch import Tensor

from ritornello import codec
from ritornello.engines.framework import TorchEngine
from ritornello.models.perceivers import Perceiver, PerceiverConfig
from ritornello.performing import Performer

AT_1024 = PerceiverConfig(
    **SIZES | {"layers": 1}, context_tokens=1088, latents=64, scales=(None, 1024), stride_tokens=32
)
PLAYED = PerceiverConfig(**SIZES, context_tokens=512, latents=128, scales=(None, 256), stride_tokens=64)


@torch.no_grad()
def token_by_token(model: Perceiver, text: Tensor) -> Tensor:
    state, parts = model.initial_state(len(text)), []
    for column in text.split(1, dim=1):
        logits, state = model(column, state)
        parts.append(logits)
    return torch.cat(parts, dim=1)


WAYS = (at_once, token_by_token)
Way = Callable[[Perceiver, Tensor], Tensor]


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize("config", VARIETY.values(), ids=VARIETY)
def test_a_stream_equals_its_windows_recomputed(config: PerceiverConfig, read: Way) -> None:
    model, text = awake(config), some_text(30, lanes=2)
    logits = read(model, text)
    for lane in range(2):
        torch.testing.assert_close(logits[lane], window_by_window(model, text[lane]), rtol=0, atol=1e-11)


def test_hints_are_read_with_their_tokens_and_kept_with_the_window() -> None:
    """Music that returns, as rows: at once, token by token and by a session that makes its own hints."""
    config = dataclasses.replace(SMALL, qk_bias=True, motif_notes=32)
    music = np.resize(made_up_tokens(3, 12)[0].astype(np.int64)[:-1], 150)
    rows = codec.with_hints(music, codec.MotifMemory(32).read(music))
    assert len(np.unique(rows[:, 1])) > 5
    model, text = awake(config), torch.from_numpy(rows)
    expected = window_by_window(model, text)
    for read in WAYS:
        torch.testing.assert_close(read(model, text[None])[0], expected, rtol=0, atol=1e-11)
    single = awake(config, dtype=torch.float32)
    session = TorchEngine(single).begin()
    logits = np.concatenate([session.score(part) for part in np.split(music, [1, 2, 40, 47, 90])])
    np.testing.assert_allclose(logits, window_by_window(single, text).numpy(), rtol=0, atol=1e-4)


# ---- what is seen ----


def dependencies(model: Perceiver, read: Way, text: Tensor, places: list[int]) -> NDArray[np.bool_]:
    """(P, T) whether another token at a place changes an output's last bit; each in its lane, beside equal lanes."""
    text = text.expand(len(places), -1)
    other = text.clone()
    for lane, place in enumerate(places):
        other[lane, place] = (text[lane, place] + 1) % codec.N_EVENTS
    found: NDArray[np.bool_] = (read(model, text) != read(model, other)).any(-1).numpy()
    return found


# Tokens that a window of SMALL shows to each of its parts, its last 4 positions among them.
PARTS = {"looks.0": 16, "looks.1": 12, "blocks": 8}


@pytest.mark.parametrize("read", WAYS)
@pytest.mark.parametrize(
    "parts", [("looks.0",), ("looks.1",), ("blocks",), ("looks.1", "blocks"), tuple(PARTS)], ids=str
)
def test_an_output_depends_on_what_its_window_shows_and_on_nothing_else(parts: tuple[str, ...], read: Way) -> None:
    """Exactly, for every pair of positions, and so on both sides of every move of the window."""
    n = 25
    found = dependencies(only(awake(SMALL), *parts), read, some_text(n), list(range(n)))
    for query in range(n):
        end = (query // 4 + 1) * 4
        first = max(0, end - max(PARTS[part] for part in parts))
        assert found[:, query].nonzero()[0].tolist() == list(range(first, query + 1)), query


@pytest.mark.parametrize(("part", "width"), [("looks.0", 1088), ("looks.1", 1024)])
def test_a_scale_hides_exactly_the_tokens_before_its_last(part: str, width: int) -> None:
    """Windows end at multiples of 32: the one that ends before position ``width`` + 32 shows tokens from 32 on."""
    n = width + 45
    found = dependencies(only(awake(AT_1024), part), at_once, some_text(n), [0, 31, 32, 33, 64])
    outputs = [row.nonzero()[0].tolist() for row in found]
    assert outputs[0] == list(range(width))
    assert outputs[1] == list(range(31, width))
    assert outputs[2] == list(range(32, width + 32))
    assert outputs[3] == list(range(33, width + 32))
    assert outputs[4] == list(range(64, n))


@torch.no_grad()
@pytest.mark.parametrize(("part", "width"), [("looks.0", 1088), ("looks.1", 1024)])
def test_a_scale_of_a_crop_hides_exactly_the_tokens_before_its_last(part: str, width: int) -> None:
    model, text = only(awake(AT_1024), part), some_text(1088)
    border, last = 1088 - width, torch.tensor([1088 - 64])

    def changed(where: slice | int) -> list[bool]:
        other = text.clone()
        other[0, where] = (text[0, where] + 1) % codec.N_EVENTS
        return (model.crop(other, last) != model.crop(text, last)).any(-1)[0].tolist()

    assert not any(changed(slice(0, border)))
    assert all(changed(border))
    assert changed(1088 - 2) == [False] * 62 + [True] * 2


# ---- playing ----


class Recording:
    """A torch engine that keeps the logits of its session, and how many bytes it held."""

    trained_on: dict[str, str] = {}  # noqa: RUF012
    name, motifs = "recording", None

    def __init__(self, model: Perceiver) -> None:
        self._engine = TorchEngine(model)
        self.logits: list[NDArray[np.float32]] = []
        self.nbytes: set[int] = set()

    def begin(self) -> Recording:
        self.session = self._engine.begin()
        return self

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        logits = self.session.read(tokens)
        self.logits.append(logits.copy())
        self.nbytes.add(self.session.nbytes)
        return logits


def greedy(engine: Recording, tokens: int, prompt: NDArray[np.integer] | tuple[()] = ()) -> list[int]:
    stream = Performer(engine, Greedy(playable=False)).events(np.random.default_rng(0), prompt=prompt, may_end=False)
    return [token for token, _ in islice(stream, tokens)]


def test_3000_tokens_played_greedily_equal_recomputation() -> None:
    model = awake(PLAYED, seed=1, dtype=torch.float32)
    engine = Recording(model)
    played = greedy(engine, 3000)
    late = np.bincount(played[1000:])
    assert (late > 0).sum() > 50, "a loop would prove little"
    expected = window_by_window(model, torch.tensor([codec.START, *played[:-1]])).numpy()
    np.testing.assert_allclose(np.stack(engine.logits), expected, rtol=0, atol=2e-4)
    grammar = codec.Grammar()
    for token, logits in zip(played, expected, strict=True):
        legal = grammar.legal() & (np.arange(codec.N_EVENTS) != codec.END)
        assert legal[token]
        assert logits[token] >= logits[legal].max() - 4e-4
        grammar.advance(token)
    assert engine.session.position == 3000
    # Keys and values of what the looks show, 512 and 256 tokens, and of two layers' 128 latents.
    assert engine.nbytes == {(512 + 256 + 2 * 128) * 2 * 16 * 4}


def test_a_prompt_longer_than_the_context_is_gone_on_from() -> None:
    """As if it had been read token by token; the piece goes on with what its last windows say."""
    model = awake(PLAYED, seed=1, dtype=torch.float32)
    (prompt,) = made_up_tokens(3, 160)
    prompt = prompt[:-1]
    assert len(prompt) > 512 + 64
    engine = Recording(model)
    played = greedy(engine, 70, prompt)
    text = torch.tensor([codec.START, *prompt.tolist(), *played[:-1]])
    np.testing.assert_allclose(
        np.stack(engine.logits), window_by_window(model, text)[len(prompt) :].numpy(), rtol=0, atol=2e-4
    )
    piece = codec.decode(np.r_[prompt, codec.END].astype(np.uint16))
    longer = Performer(TorchEngine(model)).continue_piece(piece, seconds=1, seed=0).piece
    assert len(longer) >= len(piece)


@pytest.mark.parametrize("config", VARIETY.values(), ids=VARIETY)
def test_a_session_reads_in_any_chunks(config: PerceiverConfig) -> None:
    model, rng = awake(config, dtype=torch.float32), np.random.default_rng(5)
    text = some_text(40)[0]
    expected = window_by_window(model, text).numpy()
    for most in (1, 3, 20):
        session, end = TorchEngine(model).begin(), 0
        assert session.nbytes == config.state_bytes
        while end < 40:
            begin, end = end, end + int(rng.integers(1, most + 1))
            logits = session.read(text[begin:end].numpy())
            end = session.position
            np.testing.assert_allclose(logits, expected[end - 1], rtol=0, atol=1e-4)
        assert session.nbytes == config.state_bytes


def test_a_session_reads_at_least_one_token() -> None:
    session = TorchEngine(awake(SMALL, dtype=torch.float32)).begin()
    with pytest.raises(ValueError, match="at least one token"):
        session.read(np.zeros(0, np.int64))
