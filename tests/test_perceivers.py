"""PerceiverS: nothing hidden is seen, cached play equals recomputation, and crops train what streams read.

One oracle stands beside the model: `recomputed` works out one window from scratch, by its definition, head by head over
absolute positions with the masks spelt out, in float64.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from numpy.typing import NDArray
from short_runs import assert_same_run, stopping_at
from tiny import made_up_tokens, random_model, write_corpus
from torch import Tensor

from ritornello import cli, codec
from ritornello.checkpoint import MANIFEST, load_checkpoint, save_checkpoint
from ritornello.corpus import Corpus
from ritornello.engines.framework import PerceiverSession, TorchEngine
from ritornello.evaluation import evaluate
from ritornello.feed import Augmentation, CropBatch
from ritornello.likelihood import to_device, token_nats
from ritornello.models import Model, build, describe_memory, describe_model, from_checkpoint
from ritornello.models.attention import Attention, plain, tiled
from ritornello.models.blocks import Layer
from ritornello.models.perceivers import Perceiver, PerceiverConfig
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.training.loop import train
from ritornello.training.readers import reader_of
from ritornello.training.recipes import Recipe, recipe_named

SIZES = {"layers": 2, "width": 16, "heads": 2, "mlp_width": 24}
SMALL = PerceiverConfig(**SIZES, context_tokens=16, latents=8, scales=(None, 12), stride_tokens=4)
AT_1024 = PerceiverConfig(
    **SIZES | {"layers": 1}, context_tokens=1088, latents=64, scales=(None, 1024), stride_tokens=32
)
PLAYED = PerceiverConfig(**SIZES, context_tokens=512, latents=128, scales=(None, 256), stride_tokens=64)
VARIETY = {
    "perceivers": SMALL,
    "perceiver_ar": dataclasses.replace(SMALL, scales=(None,)),
    "short_look_first": dataclasses.replace(SMALL, scales=(12, None)),
    "latents_alone": dataclasses.replace(SMALL, context_tokens=8, scales=(None,)),
    "stride_of_all_latents": dataclasses.replace(SMALL, stride_tokens=8),
    "stride_of_one": dataclasses.replace(SMALL, stride_tokens=1),
    "three_looks": dataclasses.replace(SMALL, scales=(8, 16, 9)),
}


def awake(config: PerceiverConfig, *, seed: int = 7, dtype: torch.dtype = torch.float64) -> Perceiver:
    """Weights under which every look, layer and key matters: a fresh model's branches are silent."""
    with torch.random.fork_rng():
        model = Perceiver(config).to(dtype)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(std=(1 if name.startswith("embedding") else weight.shape[1]) ** -0.5, generator=rng)
            else:
                weight.uniform_(0.5, 3 if name.endswith("sharpness") else 1.5, generator=rng)
    return model.eval()


def some_text(tokens: int, *, lanes: int = 1, seed: int = 0) -> Tensor:
    """(B, T) random events."""
    return torch.randint(codec.N_EVENTS, (lanes, tokens), generator=torch.Generator().manual_seed(seed))


def save_model(folder: Path, model: Model) -> Path:
    family, config = describe_model(model)
    save_checkpoint(folder, family=family, config=config, data={}, progress={}, tensors={"weights": model.state_dict()})
    return folder


# ---- the oracle ----


def recomputed(model: Perceiver, tokens: Tensor, *, window: int, seen: list[int], begin: int = 0) -> Tensor:
    """A window from scratch: (T,) ids that stand from ``begin`` on -> (T - (window - begin), V).

    Latents are the tokens from position ``window`` on; look i sees from position ``seen[i]`` on.
    """
    w = {name: weight.double() for name, weight in model.named_parameters()}
    d, n = model.config.width // model.config.heads, len(tokens)
    position = torch.arange(begin, begin + n)
    rates = 10_000.0 ** (-torch.arange(d // 2).double() / (d // 2))
    turn = torch.polar(torch.ones(n, d // 2).double(), position[:, None] * rates)

    def rms(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def turned(x: Tensor, at: Tensor) -> Tensor:
        pairs = torch.complex(x[:, : d // 2], x[:, d // 2 :]) * at
        return torch.cat([pairs.real, pairs.imag], dim=1)

    def layer(x: Tensor, name: str, q: Tensor, k: Tensor, v: Tensor, first: int) -> Tensor:
        at, keys_at = position[n - len(q) :], position[n - len(k) :]
        hidden = (keys_at[None] > at[:, None]) | (keys_at[None] < first)
        found = []
        for head in range(model.config.heads):
            part = slice(head * d, (head + 1) * d)
            queries = turned(rms(q[:, part]), turn[n - len(q) :]) * w[f"{name}.sharpness"][head]
            scores = queries @ turned(rms(k[:, part]), turn[n - len(k) :]).T / math.sqrt(d)
            found.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, part])
        x = x + torch.cat(found, dim=1) @ w[f"{name}.out.weight"].T
        gate, up = (rms(x) * w[f"{name}.mlp_gain"] @ w[f"{name}.gate_up.weight"].T).chunk(2, dim=1)
        return x + gate * gate.sigmoid() * up @ w[f"{name}.down.weight"].T

    embedded = rms(w["embedding.weight"][tokens])
    x = embedded[window - begin :]
    for i, first in enumerate(seen):
        q = rms(x) * w[f"looks.{i}.attention_gain"] @ w[f"looks.{i}.q.weight"].T
        k, v = (rms(embedded) * w[f"looks.{i}.context_gain"] @ w[f"looks.{i}.kv.weight"].T).chunk(2, dim=1)
        x = layer(x, f"looks.{i}", q, k, v, first)
    for i in range(model.config.layers):
        q, k, v = (rms(x) * w[f"blocks.{i}.attention_gain"] @ w[f"blocks.{i}.qkv.weight"].T).chunk(3, dim=1)
        x = layer(x, f"blocks.{i}", q, k, v, window)
    return rms(x) * w["final_gain"] @ w["head.weight"].T


def widths(config: PerceiverConfig) -> list[int]:
    """What each look sees of a full window, in tokens."""
    return [config.context_tokens if scale is None else scale for scale in config.scales]


@torch.no_grad()
def window_by_window(model: Perceiver, tokens: Tensor) -> Tensor:
    """(T,) ids of a piece -> (T, V): every window recomputed; each ends a stride beyond the one before."""
    config, parts = model.config, []
    for start in range(0, len(tokens), config.stride_tokens):
        end = start + config.stride_tokens
        seen = [max(0, end - n) for n in widths(config)]
        window, begin = max(0, end - config.latents), min(seen)
        rows = recomputed(model, tokens[begin:end], window=window, seen=seen, begin=begin)
        parts.append(rows[start - window :])
    return torch.cat(parts)


@torch.no_grad()
def at_once(model: Perceiver, text: Tensor) -> Tensor:
    return model(text, model.initial_state(len(text)))[0]


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


# ---- what is seen ----


def only(model: Perceiver, *kept: str) -> Perceiver:
    """The model with what all other looks and layers find left out of the stream."""
    for name, part in model.named_modules():
        if isinstance(part, Layer) and not name.startswith(kept):
            torch.nn.init.zeros_(part.out.weight)
    return model


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

    data: dict[str, str] = {}  # noqa: RUF012
    name = "recording"

    def __init__(self, model: Perceiver) -> None:
        self._engine = TorchEngine(model)
        self.logits: list[NDArray[np.float32]] = []
        self.nbytes: set[int] = set()

    def begin(self) -> Recording:
        session = self._engine.begin()
        assert isinstance(session, PerceiverSession)
        self.session = session
        return self

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        logits = self.session.read(tokens)
        self.logits.append(logits.copy())
        self.nbytes.add(self.session.nbytes)
        return logits


def greedy(engine: Recording, tokens: int, prompt: NDArray[np.integer] | None = None) -> list[int]:
    stream = Performer(engine, Sampling(temperature=0)).events(np.random.default_rng(0), prompt=prompt, may_end=False)
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
        while end < 40:
            begin, end = end, end + int(rng.integers(1, most + 1))
            logits = session.read(text[begin:end].numpy())
            end = session.position
            np.testing.assert_allclose(logits, expected[end - 1], rtol=0, atol=1e-4)


def test_a_session_reads_at_least_one_token() -> None:
    session = TorchEngine(awake(SMALL, dtype=torch.float32)).begin()
    with pytest.raises(ValueError, match="at least one token"):
        session.read(np.zeros(0, np.int64))


# ---- crops ----


def crops_of(pieces: list[list[int]], config: PerceiverConfig) -> tuple[Tensor, Tensor]:
    """Pieces as rows, padded on the left of what lies before the last Q, and behind where there are fewer."""
    before = [max(0, len(piece) - config.latents) for piece in pieces]
    rows = [
        [codec.PAD] * (max(before) - b) + piece + [codec.PAD] * (config.latents - len(piece))
        for b, piece in zip(before, pieces)
    ]
    return torch.tensor(rows), torch.tensor(before)


def crop_recomputed(model: Perceiver, piece: list[int]) -> Tensor:
    """(T,) -> (Q or fewer, V)."""
    n = len(piece)
    end = max(n, model.config.latents)  # of a window that a short piece does not fill
    seen = [max(0, end - width) for width in widths(model.config)]
    return recomputed(model, torch.tensor(piece), window=max(0, n - model.config.latents), seen=seen)


LENGTHS = (16, 1, 9, 8, 5, 13, 12)


def some_pieces(*lengths: int) -> list[list[int]]:
    return [some_text(n, seed=n)[0].tolist() for n in lengths]


@torch.no_grad()
@pytest.mark.parametrize("name", ["perceivers", "perceiver_ar", "short_look_first", "three_looks"])
def test_crops_equal_recomputation_whatever_lies_beside_them(name: str) -> None:
    model, pieces = awake(VARIETY[name]), some_pieces(*LENGTHS)
    logits = model.crop(*crops_of(pieces, SMALL))
    assert logits.shape == (len(LENGTHS), 8, codec.N_EVENTS)
    for row, piece in zip(logits, pieces):
        torch.testing.assert_close(row[: len(piece)], crop_recomputed(model, piece), rtol=0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("config", VARIETY.values(), ids=VARIETY)
def test_a_crop_equals_the_stream_where_latents_share_a_window(config: PerceiverConfig) -> None:
    """That of a crop that ends where a window does: the outputs of the window's last stride."""
    model, (piece,), stride = awake(config), some_pieces(40), config.stride_tokens
    stream = at_once(model, torch.tensor([piece]))[0]
    for end in range(config.latents, 41, stride):
        crop = model.crop(*crops_of([piece[max(0, end - config.context_tokens) : end]], config))[0]
        torch.testing.assert_close(crop[-stride:], stream[end - stride : end], rtol=0, atol=1e-11)


@torch.no_grad()
def test_padding_cannot_be_seen() -> None:
    model, pieces = awake(SMALL), some_pieces(*LENGTHS)
    inputs, before = crops_of(pieces, SMALL)
    other = torch.where(inputs == codec.PAD, some_text(16, lanes=len(pieces)), inputs)
    assert not torch.equal(inputs, other)
    found, beside = model.crop(inputs, before), model.crop(other, before)
    for row, row_beside, piece in zip(found, beside, pieces):
        assert torch.equal(row[: len(piece)], row_beside[: len(piece)])


def gradients(model: Perceiver, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, weights)))


@pytest.mark.parametrize("attention", [None, tiled, plain])
def test_the_gradient_of_crops_is_that_of_recomputation(attention: Attention | None) -> None:
    """Through the keys of the context too; and padding has none, for nobody sees it and no loss counts it."""
    model, pieces = awake(SMALL), some_pieces(*LENGTHS)
    model.attention = attention
    targets = [some_text(min(n, 8), seed=100 + n)[0] for n in LENGTHS]
    padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=codec.PAD)
    found = gradients(model, token_nats(model.crop(*crops_of(pieces, SMALL)), padded, None).sum())
    rows = [crop_recomputed(model, piece) for piece in pieces]
    picked = [row.log_softmax(-1)[torch.arange(len(row)), target] for row, target in zip(rows, targets)]
    expected = gradients(model, -torch.cat(picked).sum())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-11, msg=name)
        assert gradient.abs().max() > 1e-6, name
    assert not found["embedding.weight"][codec.PAD].any()
    context = {token for piece in pieces for token in piece[: max(0, len(piece) - 8)]}
    context -= {token for piece in pieces for token in piece[-8:]}
    assert context
    assert all(found["embedding.weight"][token].any() for token in context)


# ---- likelihood ----

READ = PerceiverConfig(**SIZES, context_tokens=24, latents=16, scales=(None, 16), stride_tokens=8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pieces shorter than Q + 1, of whole strides, longer than N; short and long ones to train on."""
    exact = next(t for seed in range(1000) for t in made_up_tokens(seed, 6) if len(t) % 8 == 0)
    splits = {
        "test": [*made_up_tokens(1, 1, 14, 25, 2), exact],
        "train": made_up_tokens(2, 20, 1, 9, 30, 14),
        "validation": made_up_tokens(3, 6),
    }
    return write_corpus(tmp_path_factory.mktemp("perceivers") / "corpus", splits)


@pytest.mark.parametrize("legal", [True, False])
def test_every_token_is_predicted_once_as_its_recomputed_window_predicts_it(corpus: Corpus, legal: bool) -> None:
    model = awake(READ, dtype=torch.float32)
    done: list[tuple[int, int]] = []
    result = evaluate(model, corpus, "test", legal=legal, lanes=3, progress=lambda *counts: done.append(counts))
    lengths = [record.tokens for record in corpus.pieces("test")]
    assert min(lengths) < 16 < 24 < max(lengths)
    assert done[-1] == (sum(lengths), sum(lengths))
    for nats, record in zip(result.nats, corpus.pieces("test"), strict=True):
        tokens = corpus.tokens(record).tolist()
        logits = window_by_window(model, torch.tensor([codec.START, *tokens[:-1]]))
        grammar, expected = codec.Grammar(), []
        for token, row in zip(tokens, logits.numpy(), strict=True):
            possible = row[grammar.legal()] if legal else row
            expected.append(np.logaddexp.reduce(possible) - row[token])
            grammar.advance(token)
        np.testing.assert_allclose(nats, expected, rtol=0, atol=5e-5)


def test_half_the_latents_lie_behind_every_token(tmp_path: Path) -> None:
    """At a stride of Q / 2, with no look to help: the latents of that many tokens, its own predecessor's besides."""
    n, half = 40, 8
    text = some_text(n)[0].numpy().astype(np.uint16)
    pieces = [text]
    for place in range(n):
        pieces.append(text.copy())
        pieces[-1][place] = (text[place] + 1) % codec.N_EVENTS
    corpus = write_corpus(tmp_path / "corpus", {"test": pieces})
    plainly, *changed = evaluate(only(awake(READ), "blocks"), corpus, "test", legal=False, lanes=n + 1).nats
    found = np.array([nats != plainly for nats in changed])
    for target in range(n):
        behind = found[:target, target].nonzero()[0].tolist()
        assert behind == list(range(target - len(behind), target))
        assert len(behind) >= min(target, half + 1), target


# ---- training ----

RECIPE = Recipe(
    name="of the tests",
    model=dataclasses.replace(READ, dropout=0.1),
    lanes=3,
    steps=10,
    augmentation=Augmentation(semitones=3, stretch=0.1),
    warmup_steps=5,
    validate_every_steps=1,
    checkpoint_every_s=1e9,
)


@pytest.mark.parametrize("segmentation", ["random_end", "sequential"])
def test_a_stopped_run_goes_on_to_the_bit(corpus: Corpus, tmp_path: Path, segmentation: str) -> None:
    recipe = dataclasses.replace(RECIPE, segmentation=segmentation)
    train(corpus, tmp_path / "whole", recipe, seed=11, precision="fp32")
    stops = (3, 7)
    train(corpus, tmp_path / "parts", recipe, seed=11, report=stopping_at(*stops), precision="fp32")
    for stop in stops:
        assert load_checkpoint(tmp_path / "parts" / "last").progress["step"] == stop
        train(corpus, tmp_path / "parts", recipe, resume=True, report=stopping_at(*stops))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_pieces_shorter_than_the_latents_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    short = [tokens for tokens in made_up_tokens(5, 1, 2, 1) if len(tokens) <= 16]
    assert len(short) == 3
    corpus = write_corpus(tmp_path / "corpus", {"train": short, "validation": short})
    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(), steps=60, validate_every_steps=60, legal=False)
    best = train(corpus, tmp_path / "run", recipe, seed=1, precision="fp32")
    assert best < 0.7 * math.log(codec.N_EVENTS)
    assert load_checkpoint(tmp_path / "run" / "last").progress["tokens"] == 60 * sum(map(len, short))
    model = from_checkpoint(load_checkpoint(tmp_path / "run" / "best"))
    assert evaluate(model, corpus, "validation", legal=False).figures()["tokens"] == sum(map(len, short))


def test_training_counts_exactly_the_tokens_that_crops_predict(corpus: Corpus) -> None:
    """The losses of a batch are what `crop_recomputed` says of its pieces, and nothing where there is padding."""
    model = awake(READ)
    reader = reader_of(model, corpus, dataclasses.replace(RECIPE, lanes=5, augmentation=Augmentation()), 4)
    batch: CropBatch = next(reader.feed)
    with torch.no_grad():
        logits = reader.logits(batch, torch.from_numpy(batch.inputs), 0.0)
        found = token_nats(logits, torch.from_numpy(batch.targets), to_device(batch.context, logits.device))
    assert min(batch.before) == 0 < max(batch.before)
    for lane, (piece, position, before) in enumerate(zip(batch.piece, batch.position, batch.before)):
        tokens = corpus.tokens(corpus.pieces("train")[piece]).tolist()
        end = min(len(tokens), position + 16)
        rows = crop_recomputed(model, [codec.START, *tokens][position - before : end]).detach().numpy()
        grammar = codec.Grammar()
        for i, token in enumerate(tokens[:end]):
            if i >= position:
                row = rows[i - position]
                nats = np.logaddexp.reduce(row[grammar.legal()]) - row[token]
                assert found[lane, i - position] == pytest.approx(nats, abs=1e-9)
            grammar.advance(token)
        assert not found[lane, end - position :].any()


# ---- on disk and on the command line ----


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    model = awake(dataclasses.replace(SMALL, scales=(12, None, 9), dropout=0.2), dtype=torch.float32)
    loaded = from_checkpoint(load_checkpoint(save_model(tmp_path / "model", model)))
    assert isinstance(loaded, Perceiver)
    assert loaded.config == model.config
    text = some_text(30, lanes=2)
    assert torch.equal(at_once(loaded, text), at_once(model, text))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latents": 17}, ("17 latents", "16 tokens")),
        ({"scales": (None, 17)}, ("17", "8 latents", "16 tokens")),
        ({"scales": (7,)}, ("7", "8 latents", "16 tokens")),
        ({"scales": (8.5,)}, ("8.5", "whole number")),
        ({"scales": ()}, ("scales",)),
        ({"stride_tokens": 3}, ("stride_tokens 3", "8 latents")),
        ({"stride_tokens": 0}, ("stride_tokens is 0",)),
        ({"stride_tokens": 16}, ("stride_tokens 16", "8 latents")),
        ({"width": 18}, ("width 18", "heads")),
        ({"layers": 0}, ("layers is 0",)),
        ({"latents": 8.0}, ("latents is 8.0",)),
        ({"dropout": 1.0}, ("dropout is 1.0",)),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_told_in_one_line(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    with one_line(*words):
        dataclasses.replace(SMALL, **changes)


def change(folder: Path, **fields: Any) -> Path:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, value in fields.items():
        manifest[name] = {**manifest[name], **value} if isinstance(value, dict) else value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"family": "dsmr"}, "the family dsmr"),
        ({"family": "perceivers2"}, "perceivers2"),
        ({"config": {"layers": 3}}, "of another model"),
        ({"config": {"scales": [None]}}, "of another model"),
        ({"config": {"scales": 12}}, "the family perceivers"),
        ({"config": {"scales": ["12"]}}, "12"),
        ({"config": {"schedule": "2x8"}}, "the family perceivers"),
        ({"config": {"latents": 99}}, "99 latents"),
    ],
    ids=str,
)
def test_a_checkpoint_of_something_else_is_refused_in_one_line(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    folder = change(save_model(tmp_path / "model", awake(SMALL)), **fields)
    with one_line(folder, words):
        from_checkpoint(load_checkpoint(folder))


def test_a_checkpoint_of_dsmr_is_not_taken_for_a_perceiver(tmp_path: Path) -> None:
    folder = change(save_model(tmp_path / "model", random_model(1)), family="perceivers")
    with one_line(folder, "the family perceivers"):
        from_checkpoint(load_checkpoint(folder))


def test_a_run_is_not_resumed_with_the_other_family(corpus: Corpus, tmp_path: Path) -> None:
    train(corpus, tmp_path / "run", RECIPE, steps=1, seed=1, precision="fp32")
    with one_line(tmp_path / "run", "model", "resume it unchanged"):
        train(corpus, tmp_path / "run", dataclasses.replace(RECIPE, model=random_model(1).config), resume=True)


@pytest.mark.parametrize("verb", ["evaluate", "train"])
def test_a_schedule_is_refused_in_one_line(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    folder = save_model(tmp_path / "model", awake(READ, dtype=torch.float32))
    its = {"evaluate": [str(folder)], "train": ["--out", str(tmp_path / "run"), "--recipe", "perceivers_tiny"]}[verb]
    monkeypatch.setattr(sys, "argv", ["ritornello", verb, *its, "--data", str(corpus.path), "--schedule", "uniform(0)"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert "without horizons" in err
    assert ("perceivers_tiny" if verb == "train" else str(folder)) in err


def test_the_recipes_build_what_they_say() -> None:
    tiny = recipe_named("perceivers_tiny")
    model = build("perceivers", tiny.settings()["model"])
    assert model.config == tiny.model
    assert describe_memory(tiny.model) == "context 256, 128 tokens, 64 latents"
    assert json.loads(json.dumps(tiny.settings()["model"]))["scales"] == [None, 128]
    paper = recipe_named("perceivers_paper").model
    assert isinstance(paper, PerceiverConfig)
    assert (paper.context_tokens, paper.latents, paper.scales) == (32_768, 1024, (None, 1024))
    assert not recipe_named("perceivers_paper").legal
