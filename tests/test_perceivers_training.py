"""PerceiverS in training: crops train what streams read, each token counts once, and checkpoints come back."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from perceivers_oracle import (
    READ,
    SMALL,
    VARIETY,
    at_once,
    awake,
    crop_recomputed,
    only,
    some_text,
    window_by_window,
)
from short_runs import assert_same_run, stopping_at
from tiny import made_up_tokens, random_model, save_model, write_corpus
from torch import Tensor

from ritornello import cli, codec
from ritornello.checkpoint import MANIFEST, load_checkpoint
from ritornello.corpus import Corpus
from ritornello.evaluation import evaluate
from ritornello.feed import Augmentation, CropBatch
from ritornello.likelihood import token_nats
from ritornello.models import build, from_checkpoint
from ritornello.models.attention import Attention, plain, tiled
from ritornello.models.config import read_config
from ritornello.models.perceivers import Perceiver, PerceiverConfig
from ritornello.training.loop import train
from ritornello.training.readers import reader_of
from ritornello.training.recipes import Recipe, recipe_named


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


# ---- crops ----


def crops_of(pieces: list[list[int]], config: PerceiverConfig) -> tuple[Tensor, Tensor]:
    """Pieces as rows, padded on the left of what lies before the last Q, and behind where there are fewer."""
    before = [max(0, len(piece) - config.latents) for piece in pieces]
    rows = [
        [codec.PAD] * (max(before) - b) + piece + [codec.PAD] * (config.latents - len(piece))
        for b, piece in zip(before, pieces)
    ]
    return torch.tensor(rows), torch.tensor(before)


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
        assert load_checkpoint(tmp_path / "parts" / "last").run["step"] == stop
        train(corpus, tmp_path / "parts", recipe, resume=True, report=stopping_at(*stops))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_pieces_shorter_than_the_latents_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    short = [tokens for tokens in made_up_tokens(5, 1, 2, 1) if len(tokens) <= 16]
    assert len(short) == 3
    corpus = write_corpus(tmp_path / "corpus", {"train": short, "validation": short})
    recipe = dataclasses.replace(RECIPE, augmentation=Augmentation(), steps=60, validate_every_steps=60, legal=False)
    best = train(corpus, tmp_path / "run", recipe, seed=1, precision="fp32")
    assert best < 0.7 * math.log(codec.N_EVENTS)
    assert load_checkpoint(tmp_path / "run" / "last").run["tokens"] == 60 * sum(map(len, short))
    model = from_checkpoint(load_checkpoint(tmp_path / "run" / "best"))
    assert evaluate(model, corpus, "validation", legal=False).figures()["tokens"] == sum(map(len, short))


def test_training_counts_exactly_the_tokens_that_crops_predict(corpus: Corpus) -> None:
    """The losses of a batch are what `crop_recomputed` says of its pieces, and nothing where there is padding."""
    model = awake(READ)
    reader = reader_of(model, corpus, dataclasses.replace(RECIPE, lanes=5, augmentation=Augmentation()), 4)
    batch: CropBatch = next(reader.feed)
    with torch.no_grad():
        found = reader.nats(batch, 0.0)
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
    loaded = from_checkpoint(load_checkpoint(save_model(model, tmp_path / "model")))
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
    folder = change(save_model(awake(SMALL), tmp_path / "model"), **fields)
    with one_line(folder, words):
        from_checkpoint(load_checkpoint(folder))


def test_a_checkpoint_of_dsmr_is_not_taken_for_a_perceiver(tmp_path: Path) -> None:
    folder = change(save_model(random_model(1), tmp_path / "model"), family="perceivers")
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
    folder = save_model(awake(READ, dtype=torch.float32), tmp_path / "model")
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
    model = build(read_config("perceivers", tiny.settings()["model"]))
    assert model.config == tiny.model
    assert tiny.model.describe() == "context 256, 128 tokens, 64 latents"
    assert json.loads(json.dumps(tiny.settings()["model"]))["scales"] == [None, 128]
    paper = recipe_named("perceivers_paper").model
    assert isinstance(paper, PerceiverConfig)
    assert (paper.context_tokens, paper.latents, paper.scales) == (32_768, 1024, (None, 1024))
    assert not recipe_named("perceivers_paper").legal
