"""Full-piece likelihood: equal to reading each piece alone, token by token, whatever runs beside it."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import SEGMENT_TOKENS, made_up_tokens, random_model, save_model, write_corpus

from ritornello import codec
from ritornello.corpus import Corpus, PieceRecord
from ritornello.engines import load_engine
from ritornello.errors import RitornelloError
from ritornello.evaluation import Evaluation, evaluate, evaluate_engine
from ritornello.horizons import HorizonSchedule
from ritornello.likelihood import to_device, token_nats
from ritornello.models.dsmr import DSMR

Nats = list[NDArray[np.float64]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pieces of one segment and less, of whole segments, and of many; long ones of about equal length."""
    exact = next(t for seed in range(1000) for t in made_up_tokens(seed, 8) if len(t) % SEGMENT_TOKENS == 0)
    pieces = [*made_up_tokens(1, 1, 30, 24, 28, 26, 30, 29), exact]
    return write_corpus(tmp_path_factory.mktemp("evaluation") / "corpus", {"test": pieces, "train": pieces[:1]})


@pytest.fixture(scope="module")
def model() -> DSMR:
    return random_model(3, dropout=0.4)


@torch.no_grad()
def token_by_token(model: DSMR, corpus: Corpus) -> dict[bool, Nats]:
    """By ``legal``: nats of every token of every piece, each piece alone, one token at a time, in float64."""
    nats: dict[bool, Nats] = {True: [], False: []}
    for record in corpus.pieces("test"):
        state, previous, grammar = model.initial_state(1), codec.START, codec.Grammar()
        rows = []
        for token in corpus.tokens(record).tolist():
            logits, state = model(torch.tensor([[previous]]), state)
            wide = logits[0, 0].double().numpy()
            rows.append((_nats(wide, token), _nats(np.where(grammar.legal(), wide, -np.inf), token)))
            grammar.advance(token)
            previous = token
        free, legal = np.array(rows).T
        nats[False].append(free)
        nats[True].append(legal)
    return nats


def _nats(logits: NDArray[np.float64], token: int) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()) - logits[token])


@pytest.fixture(scope="module")
def expected(model: DSMR, corpus: Corpus) -> dict[bool, Nats]:
    return token_by_token(model, corpus)


# ---- against brute force ----


@pytest.mark.parametrize("legal", [True, False])
def test_every_token_has_the_likelihood_of_its_piece_read_alone(
    model: DSMR, corpus: Corpus, expected: dict[bool, Nats], legal: bool
) -> None:
    result = evaluate(model, corpus, "test", legal=legal, lanes=3)
    for found, alone in zip(result.nats, expected[legal], strict=True):
        np.testing.assert_allclose(found, alone, atol=2e-5)
    tokens = np.concatenate(expected[legal])
    figures = result.figures()
    records = corpus.pieces("test")
    assert figures["kind"] == ("legal" if legal else "free")
    assert figures["pieces"] == len(records)
    assert figures["tokens"] == len(tokens) == sum(len(corpus.tokens(record)) for record in records)
    assert figures["nats_per_token"] == pytest.approx(tokens.mean(), abs=1e-6)
    assert figures["perplexity"] == pytest.approx(math.exp(tokens.mean()), rel=1e-6)
    notes = sum(len(codec.decode(corpus.tokens(record))) for record in records)
    seconds = sum(codec.decode(corpus.tokens(record)).seconds for record in records)
    assert figures["nats_per_note"] == pytest.approx(tokens.sum() / notes, rel=1e-6)
    assert figures["nats_per_second"] == pytest.approx(tokens.sum() / seconds, rel=1e-6)
    json.dumps(figures)


@pytest.mark.parametrize("legal", [True, False])
def test_figures_do_not_depend_on_the_number_of_lanes(
    model: DSMR, corpus: Corpus, monkeypatch: pytest.MonkeyPatch, legal: bool
) -> None:
    used: list[int] = []
    begin = model.initial_state
    monkeypatch.setattr(model, "initial_state", lambda lanes: (used.append(lanes), begin(lanes))[1])
    results = [evaluate(model, corpus, "test", legal=legal, lanes=lanes) for lanes in (1, 2, 5)]
    assert used == [1, 2, 5]
    for result in results[1:]:
        assert result.nats_per_token == pytest.approx(results[0].nats_per_token, abs=1e-6)
        for found, alone in zip(result.nats, results[0].nats):
            np.testing.assert_allclose(found, alone, atol=2e-5)


def test_no_token_is_less_likely_under_the_grammar(model: DSMR, corpus: Corpus) -> None:
    legal, free = (evaluate(model, corpus, "test", legal=kind) for kind in (True, False))
    for under_grammar, over_all in zip(legal.nats, free.nats):
        assert (under_grammar <= over_all + 1e-5).all()
    assert legal.nats_per_token < free.nats_per_token - 0.1


@pytest.mark.parametrize("lanes", [1, 4])
def test_chosen_pieces_have_the_figures_that_they_have_among_all(model: DSMR, corpus: Corpus, lanes: int) -> None:
    whole = evaluate(model, corpus, "test", legal=True)
    some = evaluate(model, corpus, "test", legal=True, pieces=[4, 0, 2], lanes=lanes)
    assert [record.title for record in some.records] == ["0", "2", "4"]
    for found, piece in zip(some.nats, (0, 2, 4), strict=True):
        np.testing.assert_allclose(found, whole.nats[piece], atol=2e-5)


def test_memory_matters_and_only_from_the_second_segment_on(model: DSMR, corpus: Corpus) -> None:
    forgetful = model.rescheduled(HorizonSchedule.uniform(layers=2, horizon=0))
    whole, forgotten = (evaluate(m, corpus, "test", legal=False) for m in (model, forgetful))
    assert abs(whole.nats_per_token - forgotten.nats_per_token) > 1e-3
    for a, b in zip(whole.nats, forgotten.nats):
        np.testing.assert_allclose(a[:SEGMENT_TOKENS], b[:SEGMENT_TOKENS], atol=2e-5)
        assert len(a) <= SEGMENT_TOKENS or np.abs(a - b)[SEGMENT_TOKENS:].max() > 1e-3


def test_half_precision_changes_little(model: DSMR, corpus: Corpus) -> None:
    exact, half = (evaluate(model, corpus, "test", legal=True, precision=p) for p in ("fp32", "bf16"))
    assert 0 < abs(exact.nats_per_token - half.nats_per_token) < 0.05


# ---- by hand ----


def record(tokens: int, notes: int, seconds: float) -> PieceRecord:
    return PieceRecord("", "", "test", "", "", 0, tokens, notes, seconds)


def by_hand(*nats: list[float], legal: bool = True) -> Evaluation:
    records = tuple(record(len(piece), notes=2, seconds=4.0) for piece in nats)
    return Evaluation(records, tuple(np.array(piece, np.float32) for piece in nats), legal)


def test_figures_of_two_pieces_by_hand() -> None:
    result = by_hand([1.0, 2.0, 3.0], [6.0], legal=False).figures()
    assert result == {
        "kind": "free",
        "pieces": 2,
        "tokens": 4,
        "nats_per_token": 3.0,  # (1 + 2 + 3 + 6) / 4: pieces count by their tokens
        "perplexity": pytest.approx(20.0855369),
        "nats_per_note": 3.0,  # 12 / (2 + 2)
        "nats_per_second": 1.5,  # 12 / (4 + 4)
        "by_position": [{"from": 0, "to": 128, "tokens": 4, "nats_per_token": 3.0}],
    }


def test_positions_are_binned_by_hand() -> None:
    result = by_hand([1.0] * 128 + [2.0] * 384 + [4.0] * 8, [3.0] * 128 + [6.0])
    assert result.by_position() == [
        {"from": 0, "to": 128, "tokens": 256, "nats_per_token": 2.0},
        {"from": 128, "to": 512, "tokens": 385, "nats_per_token": pytest.approx((2 * 384 + 6) / 385)},
        {"from": 512, "to": 1024, "tokens": 8, "nats_per_token": 4.0},
    ]


def test_the_last_bin_is_open_and_all_bins_add_up() -> None:
    nats = np.random.default_rng(0).exponential(size=40_000)
    result = by_hand(nats.tolist(), nats[:700].tolist())
    rows = result.by_position()
    assert (rows[-1]["from"], rows[-1]["to"], rows[-1]["tokens"]) == (32768, None, 40_000 - 32768)
    assert all(row["to"] == following["from"] for row, following in pairwise(rows))
    assert sum(row["tokens"] for row in rows) == 40_700
    total = sum(row["tokens"] * row["nats_per_token"] for row in rows)
    assert total / 40_700 == pytest.approx(result.nats_per_token, rel=1e-12)


def test_nats_of_even_chances_are_the_logarithm_of_their_number() -> None:
    tokens = torch.tensor([[codec.SHIFT + 4, codec.VELOCITY + 9, 60, codec.PAD]])
    context = codec.contexts(tokens[0].numpy())
    contexts = to_device(codec.Context(*(rows[None] for rows in context)), torch.device("cpu"))
    logits = torch.zeros(1, 4, codec.N_EVENTS)
    free = token_nats(logits, tokens, None)
    legal = token_nats(logits, tokens, contexts)
    # At the start: 100 shifts, 32 velocities, END. After a short shift velocities alone. After a velocity: 128 keys.
    assert free[0].tolist() == pytest.approx([math.log(389)] * 3 + [0])
    assert legal[0].tolist() == pytest.approx([math.log(133), math.log(32), math.log(128), 0])


# ---- manners ----


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored_and_dropout_plays_no_part(model: DSMR, corpus: Corpus, training: bool) -> None:
    quiet = evaluate(model.eval(), corpus, "test", legal=True).nats_per_token
    model.train(training)
    try:
        assert evaluate(model, corpus, "test", legal=True).nats_per_token == quiet
        assert all(module.training == training for module in model.modules())
    finally:
        model.eval()


def test_the_training_mode_is_restored_after_an_error(model: DSMR, corpus: Corpus) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    model.train()
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate(model, corpus, "test", legal=True, progress=stop)
        assert model.training
    finally:
        model.eval()


def test_no_gradient_and_no_random_number_is_left_behind(model: DSMR, corpus: Corpus) -> None:
    before = torch.get_rng_state()
    evaluate(model.train(), corpus, "test", legal=True)
    model.eval()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_every_token_once(model: DSMR, corpus: Corpus) -> None:
    told: list[tuple[int, int]] = []
    evaluate(model, corpus, "test", legal=False, lanes=3, progress=lambda done, total: told.append((done, total)))
    total = sum(record.tokens for record in corpus.pieces("test"))
    assert told[-1] == (total, total)
    assert all(a < b <= total for (a, _), (b, _) in pairwise(told))


def test_a_split_without_pieces_is_refused(model: DSMR, corpus: Corpus) -> None:
    with pytest.raises(RitornelloError, match="no pieces in split 'validation'"):
        evaluate(model, corpus, "validation", legal=True)


def test_a_model_reads_the_same_hints_as_the_engines_that_play_it(tmp_path: Path) -> None:
    """Pieces in lanes, with hints from the feed, and piece by piece by engines that make their own."""
    music = [np.r_[np.resize(tokens[:-1], 300), codec.END].astype(np.uint16) for tokens in made_up_tokens(4, 20, 30)]
    corpus = write_corpus(tmp_path / "corpus", {"test": music})
    model = random_model(5, qk_bias=True, motif_notes=32)
    read = evaluate(model, corpus, "test", legal=False)
    for engine in ("torch", "onnx-fp32"):
        played = load_engine(str(save_model(model, tmp_path / engine)), engine)
        alone = evaluate_engine(played, corpus, "test", legal=False)
        for found, expected in zip(alone.nats, read.nats, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
