"""Crops: which tokens each segmentation predicts, with which context, and that a stopped stream goes on exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny import made_up_tokens, write_corpus

from ritornello import codec
from ritornello.codec import END, PAD, START
from ritornello.corpus import Corpus
from ritornello.feed import SEGMENTATIONS, Augmentation, CropBatch, Crops

N, Q = 24, 8
LENGTHS = (3, 7, 8, 9, 23, 24, 25, 61)


def counting_pieces(lengths: Iterable[int]) -> list[NDArray[np.uint16]]:
    """Pieces whose tokens tell where they stand: token i of a piece is i, and the last is END."""
    return [np.r_[np.arange(length - 1), END].astype(np.uint16) for length in lengths]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pieces of every length about Q and N, and one of many windows."""
    return write_corpus(tmp_path_factory.mktemp("crops") / "corpus", {"train": counting_pieces(LENGTHS)})


@pytest.fixture(scope="module")
def performances(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Real encodings, from shorter than Q to longer than N."""
    return write_corpus(tmp_path_factory.mktemp("crops") / "corpus", {"train": made_up_tokens(1, 1, 12, 40, 5, 3)})


def crops_of(corpus: Corpus, segmentation: str, *, lanes: int = 3, n: int = N, q: int = Q, **options: Any) -> Crops:
    sizes = {"lanes": lanes, "context_tokens": n, "latents": q}
    return Crops(corpus, "train", segmentation=segmentation, **sizes, **options)


class Crop(NamedTuple):
    """One lane of a batch without its padding."""

    piece: int
    first: int
    read: list[int]
    targets: list[int]
    before: int

    @property
    def end(self) -> int:
        return self.first + len(self.targets)


def crops_in(batches: Iterable[CropBatch], q: int = Q) -> list[Crop]:
    """The crops of batches, and that padding is where it should be and nowhere else."""
    crops = []
    for batch in batches:
        memories = batch.inputs.shape[1] - q
        assert batch.targets.shape == (len(batch.piece), q)
        assert memories % q == 0
        assert 0 <= memories - batch.before.max() < q
        for lane in range(len(batch.piece)):
            count, before = int((batch.targets[lane] != PAD).sum()), int(batch.before[lane])
            real = slice(memories - before, memories + count)
            assert (batch.inputs[lane, : real.start] == PAD).all()
            assert (batch.inputs[lane, real.stop :] == PAD).all()
            assert (batch.targets[lane, count:] == PAD).all()
            read, targets = batch.inputs[lane, real].tolist(), batch.targets[lane, :count].tolist()
            assert PAD not in read
            crops.append(Crop(int(batch.piece[lane]), int(batch.position[lane]), read, targets, before))
    return crops


def some_crops(corpus: Corpus, segmentation: str, batches: int, **options: Any) -> list[Crop]:
    return crops_in(islice(crops_of(corpus, segmentation, **options), batches))


# ---- what a crop holds ----


def assert_whole_context(crop: Crop, tokens: list[int], n: int, q: int) -> None:
    """The last Q tokens before an end, or all there are, behind N - Q before them, or all there are."""
    assert crop.targets == tokens[max(0, crop.end - q) : crop.end]
    assert crop.read == [START, *tokens][max(0, crop.end - n) : crop.end]
    assert crop.before == len(crop.read) - len(crop.targets) == min(n - q, max(0, crop.end - q))


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_inputs_are_the_targets_predecessors_with_all_of_their_context(corpus: Corpus, segmentation: str) -> None:
    pieces = [piece.tolist() for piece in counting_pieces(LENGTHS)]
    crops = some_crops(corpus, segmentation, 40)
    assert {crop.piece for crop in crops} == set(range(len(LENGTHS)))
    for crop in crops:
        assert_whole_context(crop, pieces[crop.piece], N, Q)


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_crops_are_of_what_a_limit_leaves_of_a_piece(corpus: Corpus, segmentation: str) -> None:
    most = 25
    crops = some_crops(corpus, segmentation, 60, piece_tokens=most)
    for crop in crops:
        assert_whole_context(crop, counting_pieces(LENGTHS)[crop.piece].tolist()[:most], N, Q)
    assert max(crop.end for crop in crops) == most < max(LENGTHS)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    q=st.integers(1, 9),
    more=st.integers(0, 20),
    lanes=st.integers(1, 4),
    segmentation=st.sampled_from(SEGMENTATIONS),
    seed=st.integers(0, 2**31),
)
def test_so_of_any_pieces_and_sizes(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    q: int,
    more: int,
    lanes: int,
    segmentation: str,
    seed: int,
) -> None:
    pieces = counting_pieces(lengths)
    corpus = write_corpus(tmp_path_factory.mktemp("any") / "corpus", {"train": pieces})
    feed = crops_of(corpus, segmentation, lanes=lanes, n=q + more, q=q, seed=seed)
    for crop in crops_in(islice(feed, 12), q):
        assert_whole_context(crop, pieces[crop.piece].tolist(), q + more, q)


def test_grammar_contexts_are_those_of_the_targets(performances: Corpus) -> None:
    """And where nothing is predicted something is legal, so that a masked softmax has a sum."""
    for batch in islice(crops_of(performances, "random_end", grammar=True), 10):
        assert batch.context is not None
        legal = codec.legal_events(batch.context)
        assert legal.shape == (*batch.targets.shape, codec.N_EVENTS)
        assert legal.any(-1).all()
        for lane, (piece, first) in enumerate(zip(batch.piece, batch.position)):
            grammar = codec.Grammar()
            tokens = performances.tokens(performances.pieces("train")[piece])
            for place, token in enumerate(tokens[: first + Q].tolist()):
                if place >= first:
                    assert legal[lane, place - first].tolist() == grammar.legal().tolist()
                grammar.advance(token)
    assert next(crops_of(performances, "random_end")).context is None


# ---- what is predicted ----


def ends_of(crops: list[Crop]) -> dict[int, Counter[int]]:
    ends: dict[int, Counter[int]] = {piece: Counter() for piece in range(len(LENGTHS))}
    for crop in crops:
        ends[crop.piece][crop.end] += 1
    return ends


EPOCHS = 600


@pytest.fixture(scope="module")
def many(corpus: Corpus) -> dict[str, dict[int, Counter[int]]]:
    """By segmentation and piece, how often each end was drawn; a piece once in an epoch."""
    n = len(LENGTHS)
    return {name: ends_of(some_crops(corpus, name, EPOCHS, lanes=n)) for name in ("random_start", "random_end")}


def assert_drawn_evenly(ends: Counter[int], possible: range) -> None:
    """Every possible end and no other, each within five standard deviations of its share."""
    assert set(ends) == set(possible)
    mean = EPOCHS / len(possible)
    assert all(abs(count - mean) <= 5 * mean**0.5 for count in ends.values())


def test_random_start_never_predicts_what_lies_before_the_latents_of_the_first_window(
    many: dict[str, dict[int, Counter[int]]],
) -> None:
    """Whole windows from anywhere: all that comes later is predicted, and of a short piece only its last Q tokens."""
    for piece, length in enumerate(LENGTHS):
        assert_drawn_evenly(many["random_start"][piece], range(min(length, N), length + 1))


def test_random_end_predicts_every_token(many: dict[str, dict[int, Counter[int]]]) -> None:
    """Any Q consecutive tokens, those of the beginning among them; all tokens of a piece that has no more."""
    for piece, length in enumerate(LENGTHS):
        assert_drawn_evenly(many["random_end"][piece], range(min(length, Q), length + 1))


def test_sequential_goes_through_all_ends_in_every_epoch(corpus: Corpus) -> None:
    """Q apart, the last at the piece's end: so every token is predicted, and none twice but in the last crop."""
    one_epoch = sum(-(-length // Q) for length in LENGTHS)
    feed = crops_of(corpus, "sequential", lanes=1)
    for epoch in range(3):
        crops = crops_in(islice(feed, one_epoch))
        assert feed.epoch == epoch
        for piece, length in enumerate(LENGTHS):
            of_piece = [crop for crop in crops if crop.piece == piece]
            assert [crop.end for crop in of_piece] == [*range(Q, length, Q), length]
            predicted = Counter(place for crop in of_piece for place in range(crop.first, crop.end))
            assert set(predicted) == set(range(length))
            assert all(count == 1 for place, count in predicted.items() if place < length - Q)


def test_sequential_reaches_the_end_of_a_stretched_piece(performances: Corpus) -> None:
    """Stretched pieces have more tokens or fewer: each epoch predicts all that they have then, up to END."""
    feed = crops_of(performances, "sequential", lanes=1, augmentation=Augmentation(stretch=1.0))
    texts: dict[tuple[int, int], dict[int, int]] = {}
    while feed.epoch < 4:
        (crop,) = crops_in([next(feed)])
        text = texts.setdefault((feed.epoch, crop.piece), {})
        for place, token in zip(range(crop.first, crop.end), crop.targets):
            assert text.setdefault(place, token) == token
    whole = [text for (epoch, _), text in texts.items() if epoch < 4]
    assert len(whole) == 4 * 5
    for text in whole:
        assert sorted(text) == list(range(len(text)))
        assert [place for place, token in text.items() if token == END] == [len(text) - 1]
    lengths = {piece: {len(text) for (_, p), text in texts.items() if p == piece} for piece in range(5)}
    assert max(len(found) for found in lengths.values()) > 1


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_an_epoch_visits_every_piece(corpus: Corpus, segmentation: str) -> None:
    feed, visited = crops_of(corpus, segmentation, lanes=1), Counter[tuple[int, int]]()
    while feed.epoch < 3:
        (crop,) = crops_in([next(feed)])
        visited[feed.epoch, crop.piece] += 1
    for epoch in range(3):
        of_epoch = {piece: visited[epoch, piece] for piece in range(len(LENGTHS))}
        assert all(of_epoch.values())
        if segmentation != "sequential":
            assert set(of_epoch.values()) == {1}


# ---- again and on ----


def same(one: CropBatch, other: CropBatch) -> bool:
    if (one.context is None) != (other.context is None):
        return False
    fields = [(one[i], other[i]) for i in range(len(one)) if i != one._fields.index("context")]
    fields += list(zip(one.context or (), other.context or ()))
    return all(np.array_equal(a, b) for a, b in fields)


OPTIONS: dict[str, Any] = {"augmentation": Augmentation(semitones=3, stretch=0.2), "grammar": True}


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_a_seed_decides_everything(performances: Corpus, segmentation: str) -> None:
    one, again, other = (
        list(islice(crops_of(performances, segmentation, seed=seed, **OPTIONS), 12)) for seed in (5, 5, 6)
    )
    assert all(same(a, b) for a, b in zip(one, again))
    assert not all(same(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize("segmentation", ["random_start", "random_end"])
def test_another_seed_or_epoch_draws_other_crops_of_a_piece(corpus: Corpus, segmentation: str) -> None:
    longest, draws = len(LENGTHS) - 1, []
    for seed in (5, 6):
        crops = some_crops(corpus, segmentation, 8, seed=seed, lanes=len(LENGTHS))
        draws.append([crop.end for crop in crops if crop.piece == longest])
    one, other = draws
    assert one != other
    assert len(set(one)) > 1


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_a_restored_stream_goes_on_exactly(performances: Corpus, segmentation: str) -> None:
    """From any batch on, within a piece and across epochs; through JSON."""
    feed = crops_of(performances, segmentation, seed=5, lanes=2, **OPTIONS)
    states, batches = [], []
    for _ in range(24):
        states.append(json.dumps(feed.state()))
        batches.append(next(feed))
    assert feed.epoch >= 1
    for begin in range(0, 24, 3):
        later = crops_of(performances, segmentation, seed=5, lanes=2, **OPTIONS)
        later.restore(json.loads(states[begin]))
        assert json.dumps(later.state()) == states[begin]
        assert all(same(a, b) for a, b in zip(batches[begin : begin + 6], later))


def test_a_state_of_another_corpus_is_refused(performances: Corpus, corpus: Corpus) -> None:
    with one_line(performances.path, f"held {sum(LENGTHS)};", "same corpus"):
        crops_of(performances, "sequential").restore(crops_of(corpus, "sequential").state())


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"segmentation": "random"}, ("'random'", *SEGMENTATIONS)),
        ({"q": N + 1}, (f"latents is {N + 1}", f"{N} tokens")),
        ({"q": 0}, ("latents is 0",)),
        ({"lanes": 0}, ("lanes is 0",)),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_told_in_one_line(
    corpus: Corpus, sizes: dict[str, Any], words: tuple[str, ...]
) -> None:
    with one_line(*words):
        crops_of(corpus, **{"segmentation": "random_end", **sizes})
