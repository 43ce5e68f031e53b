"""The feed: lanes read whole pieces, each once per epoch, and a resumed feed goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import made_up_tokens, write_corpus

from ritornello import codec
from ritornello.codec import END, PAD, START
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.feed import Augmentation, Batch, Lanes, transposed
from ritornello.feed.lanes import Order
from ritornello.notes import Piece

S = 16
TITLES = ("a", "b", "a", "", "b", "a", "")  # of the training pieces; a piece without one is like no other


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Seven pieces in train, from shorter than a segment to forty segments, of four titles; one in validation."""
    exact = next(t for seed in range(1000) for t in made_up_tokens(seed, 9) if len(t) % S == 0)
    train = [*made_up_tokens(1, 1, 2, 120, 30, 60, 15), exact]
    made = write_corpus(tmp_path_factory.mktemp("feed") / "corpus", {"train": train, "validation": train[:1]})
    made.records = [replace(record, title=title) for record, title in zip(made.records, (*TITLES, "c"))]
    return made


def lanes_of(corpus: Corpus, lanes: int = 3, **options: Any) -> Lanes:
    return Lanes(corpus, "train", lanes=lanes, segment_tokens=S, **options)


@dataclass
class Reading:
    """What one lane read of one piece."""

    piece: int
    targets: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    contexts: list[codec.Context] = field(default_factory=list)


def readings(batches: Iterable[Batch]) -> list[Reading]:
    """The pieces as the lanes read them, in the order in which they were begun. Checks how batches hang together."""
    begun: list[Reading] = []
    current: dict[int, Reading] = {}
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape
        assert batch.targets.shape[1] <= S
        for lane in range(len(batch.piece)):
            real = batch.targets[lane] != PAD
            length = int(real.sum())
            assert real[:length].all(), "padding before the end of what a lane reads"
            if batch.piece[lane] < 0:
                assert length == 0
                continue
            assert length > 0
            assert batch.starts[lane] == (batch.position[lane] == 0)
            if batch.starts[lane]:
                current[lane] = Reading(int(batch.piece[lane]))
                begun.append(current[lane])
            reading = current[lane]
            assert reading.piece == batch.piece[lane]
            assert len(reading.targets) == batch.position[lane]
            assert END not in reading.targets, "a lane goes on behind a piece's end"
            reading.targets += batch.targets[lane, :length].tolist()
            reading.inputs += batch.inputs[lane, :length].tolist()
            reading.segments.append(length)
            if length < batch.targets.shape[1]:
                assert reading.targets[-1] == END, "padding inside a piece"
            if batch.context is not None:
                rows = zip(*(field[lane, :length] for field in batch.context))
                reading.contexts += [codec.Context(*row) for row in rows]
    return begun


def same(one: Batch, other: Batch) -> bool:
    parts = [
        (getattr(one, name), getattr(other, name)) for name in ("inputs", "targets", "starts", "piece", "position")
    ]
    assert one.group == other.group
    if one.context is not None:
        assert other.context is not None
        parts += zip(one.context, other.context)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in parts)


# ---- whole pieces ----


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_piece_is_read_whole_and_once_per_epoch(corpus: Corpus, lanes: int, shuffle: bool) -> None:
    begun = readings(lanes_of(corpus, lanes, shuffle=shuffle, epochs=3))
    pieces = [corpus.tokens(record).tolist() for record in corpus.pieces("train")]
    assert len(begun) == 3 * len(pieces)
    for reading in begun:
        assert reading.targets == pieces[reading.piece]
    for epoch in range(3):
        of_epoch = [reading.piece for reading in begun[epoch * len(pieces) : (epoch + 1) * len(pieces)]]
        assert sorted(of_epoch) == list(range(len(pieces)))


@pytest.mark.parametrize("moved", [True, False])
def test_longer_pieces_are_read_up_to_a_limit_and_others_to_their_ends(corpus: Corpus, moved: bool) -> None:
    """The limit, which is no number of segments, is of what is read: of a piece once it is stretched."""
    most, whole = 5 * S + 3, lanes_of(corpus, 1, epochs=2, augmentation=Augmentation(stretch=0.2 * moved))
    shorter = lanes_of(corpus, 1, epochs=2, augmentation=Augmentation(stretch=0.2 * moved), piece_tokens=most)
    read: list[list[int]] = []
    for batch in shorter:
        read += [[]] if batch.starts[0] else []
        read[-1] += batch.targets[batch.targets != PAD].tolist()
    assert read == [reading.targets[:most] for reading in readings(whole)]
    assert {len(piece) == most for piece in read} == {True, False}


@pytest.mark.parametrize("shuffle", [True, False])
def test_with_balanced_titles_an_epoch_reads_one_performance_of_each_and_then_another(
    corpus: Corpus, shuffle: bool
) -> None:
    begun = readings(lanes_of(corpus, 3, balance_titles=True, shuffle=shuffle, epochs=12, seed=5))
    pieces = [corpus.tokens(record).tolist() for record in corpus.pieces("train")]
    assert all(reading.targets == pieces[reading.piece] for reading in begun)
    epochs = [[reading.piece for reading in begun[n : n + 4]] for n in range(0, len(begun), 4)]
    assert len(epochs) == 12
    for epoch in epochs:
        assert {3, 6} < set(epoch), "the two without a title are read in every epoch"
        assert sorted(TITLES[piece] for piece in epoch) == ["", "", "a", "b"]
    of_a = [piece for epoch in epochs for piece in epoch if TITLES[piece] == "a"]
    turns = [tuple(of_a[n : n + 3]) for n in range(0, 12, 3)]
    assert all(sorted(turn) == [0, 2, 5] for turn in turns)
    assert len(set(turns)) > 1, "each turn has an order of its own"


def test_with_balanced_titles_performances_of_two_composers_are_not_one_title(corpus: Corpus) -> None:
    others = copy(corpus)
    others.records = [replace(record, composer=str(n)) for n, record in enumerate(corpus.records)]
    assert len(readings(lanes_of(others, balance_titles=True, epochs=1))) == len(TITLES)


def with_sources(corpus: Corpus, *weights: float) -> Corpus:
    """The same pieces, each in turn of the next source."""
    made = copy(corpus)
    made.manifest = {**corpus.manifest, "sources": [{"name": "", "licence": "", "weight": w} for w in weights]}
    made.records = [replace(record, source=n % len(weights)) for n, record in enumerate(corpus.records)]
    return made


@pytest.mark.parametrize("balance_titles", [True, False])
def test_an_epoch_reads_each_piece_of_a_source_as_often_as_its_weight_says(
    corpus: Corpus, balance_titles: bool
) -> None:
    """Pieces 0, 2, 4, 6 of a source that is read twice, 1, 3, 5 of one that is read at every fourth epoch."""
    order = Order(with_sources(corpus, 2, 0.25), "train", seed=3, balance_titles=balance_titles)
    epochs = [order(epoch).tolist() for epoch in range(8)]
    if balance_titles:  # titles a (0, 2, 5), b (1, 4), and those of 3 and of 6; each of the source of its first piece
        counts = Counter(
            "b" if piece in (1, 4) else piece if piece in (3, 6) else "a" for epoch in epochs for piece in epoch
        )
        assert counts == {"a": 16, "b": 2, 3: 2, 6: 16}
        return
    assert Counter(piece for epoch in epochs for piece in epoch) == {0: 16, 2: 16, 4: 16, 6: 16, 1: 2, 3: 2, 5: 2}
    for epoch in epochs:
        assert Counter(piece for piece in epoch if piece % 2 == 0) == {0: 2, 2: 2, 4: 2, 6: 2}
    turns = [piece for epoch in epochs for piece in epoch if piece % 2]
    assert sorted(turns[:3]) == sorted(turns[3:]) == [1, 3, 5], "all are read before one is again"
    assert epochs[0] != sorted(epochs[0])


def test_weights_of_one_change_nothing_and_an_evaluation_knows_none(corpus: Corpus) -> None:
    plain, equal = Order(corpus, "train", seed=3), Order(with_sources(corpus, 1, 1), "train", seed=3)
    assert [plain(epoch).tolist() for epoch in range(5)] == [equal(epoch).tolist() for epoch in range(5)]
    in_order = Order(with_sources(corpus, 3, 0.1), "train", seed=3, shuffle=False)
    assert sorted(in_order(0).tolist()) == list(range(7))


def test_epochs_that_read_nothing_are_passed_over(corpus: Corpus) -> None:
    """Of the weight 0.05 seven pieces are read in twenty epochs."""
    feed = lanes_of(with_sources(corpus, 0.05), 1)
    begun = [batch.piece[0] for batch in islice(feed, 300) if batch.starts[0]]
    assert len(begun) > 7
    assert sorted(begun[:7]) == list(range(7))
    assert feed.epoch >= 20


def test_a_token_is_predicted_from_its_predecessor_and_the_first_from_start(corpus: Corpus) -> None:
    for reading in readings(lanes_of(corpus, epochs=1)):
        assert reading.inputs == [START, *reading.targets[:-1]]


def test_segments_begin_at_multiples_of_s(corpus: Corpus) -> None:
    lengths = {len(reading.targets) % S for reading in readings(lanes_of(corpus, epochs=1))}
    assert 0 in lengths, "no piece that fills its last segment: the test proves less"
    for reading in readings(islice(lanes_of(corpus), 200)):
        assert all(length == S for length in reading.segments[:-1])


def test_only_the_last_segment_of_a_piece_is_padded(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": made_up_tokens(3, *range(150, 210, 10))})
    batches = list(islice(lanes_of(corpus, 4), 400))
    ended = sum(int(np.count_nonzero(batch.targets == END)) for batch in batches)
    padding = sum(int(np.count_nonzero(batch.targets == PAD)) for batch in batches)
    assert ended > 10
    assert padding <= ended * (S - 1)
    assert padding < 0.02 * sum(batch.targets.size for batch in batches)


def test_a_lane_takes_its_next_piece_at_once(corpus: Corpus) -> None:
    for batch in islice(lanes_of(corpus), 300):
        assert (batch.piece >= 0).all()


def test_a_finite_feed_leaves_lanes_idle_and_then_ends(corpus: Corpus) -> None:
    n = len(corpus.pieces("train"))
    feed = lanes_of(corpus, n + 2, epochs=1, grammar=True)
    batches = list(feed)
    idle = [batch.piece < 0 for batch in batches]
    assert idle[0].tolist() == [False] * n + [True] * 2
    assert idle[-1].sum() == n + 1, "the longest piece is read alone in the end"
    assert all((batch.targets[batch.piece < 0] == PAD).all() for batch in batches)
    assert next(feed, None) is None


def test_a_feed_of_chosen_pieces_reads_no_others(corpus: Corpus) -> None:
    begun = readings(lanes_of(corpus, 2, epochs=2, pieces=[4, 1]))
    assert Counter(reading.piece for reading in begun) == {1: 2, 4: 2}


# ---- order ----


def order(corpus: Corpus, epochs: int, **options: Any) -> list[list[int]]:
    n = len(corpus.pieces("train"))
    begun = [reading.piece for reading in readings(lanes_of(corpus, epochs=epochs, **options))]
    return [begun[i : i + n] for i in range(0, len(begun), n)]


def test_each_epoch_has_an_order_of_its_own_which_the_seed_decides(corpus: Corpus) -> None:
    orders = order(corpus, 6, seed=5)
    assert len({tuple(o) for o in orders}) == 6
    assert orders == order(corpus, 6, seed=5)
    assert orders != order(corpus, 6, seed=6)


def test_the_order_does_not_depend_on_the_number_of_lanes(corpus: Corpus) -> None:
    assert order(corpus, 3, lanes=2) == order(corpus, 3, lanes=5)


def test_without_shuffling_the_longest_pieces_come_first(corpus: Corpus) -> None:
    lengths = [record.tokens for record in corpus.pieces("train")]
    (only,) = order(corpus, 1, shuffle=False)
    assert [lengths[piece] for piece in only] == sorted(lengths, reverse=True)


def test_the_epoch_is_that_of_the_pieces_being_taken(corpus: Corpus) -> None:
    feed = lanes_of(corpus, 1)
    n = len(corpus.pieces("train"))
    taken = 0
    while taken < 3 * n:
        taken += int(next(feed).starts[0])
        assert feed.epoch == (taken - 1) // n


def test_groups_read_what_as_many_lanes_side_by_side_would(corpus: Corpus) -> None:
    """In turn: the first lanes' segments, then the next ones'; and each its own pieces."""
    interleave, options = 3, {"seed": 4, "grammar": True, "augmentation": Augmentation(semitones=3, stretch=0.1)}
    together = lanes_of(corpus, 6, **options)
    in_turn = lanes_of(corpus, 2, interleave=interleave, **options)
    for expected in islice(together, 60):
        batches = list(islice(in_turn, interleave))
        assert [batch.group for batch in batches] == [0, 1, 2]
        fields = [np.concatenate([getattr(b, name) for b in batches]) for name in Batch._fields[:3]]
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(fields, expected[:3]))
        for name in ("piece", "position"):
            assert np.concatenate([getattr(b, name) for b in batches]).tolist() == getattr(expected, name).tolist()
        contexts = zip(*(batch.context or () for batch in batches))
        assert all(np.array_equal(np.concatenate(c), e) for c, e in zip(contexts, expected.context or ()))
        assert expected.context is not None


# ---- going on ----


@settings(max_examples=40, deadline=None)
@given(
    lanes=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    done=st.integers(0, 90),
    epochs=st.sampled_from([None, 1, 2]),
    shuffle=st.booleans(),
    grammar=st.booleans(),
    moved=st.booleans(),
    interleave=st.integers(1, 4),
    balance_titles=st.booleans(),
)
def test_a_restored_feed_goes_on_identically(
    corpus: Corpus,
    lanes: int,
    seed: int,
    done: int,
    epochs: int | None,
    shuffle: bool,
    grammar: bool,
    moved: bool,
    interleave: int,
    balance_titles: bool,
) -> None:
    options = {
        "balance_titles": balance_titles,
        "interleave": 1 if epochs else interleave,
        "seed": seed,
        "epochs": epochs,
        "shuffle": shuffle,
        "grammar": grammar,
        "augmentation": Augmentation(semitones=5, stretch=0.2) if moved else None,
    }
    feed = lanes_of(corpus, lanes, **options)
    list(islice(feed, done))
    state = json.loads(json.dumps(feed.state()))
    other = lanes_of(corpus, lanes, **options)
    list(islice(other, 3))
    other.restore(state)
    assert other.state() == feed.state()
    expected, found = list(islice(feed, 25)), list(islice(other, 25))
    assert len(expected) == len(found)
    assert all(same(a, b) for a, b in zip(expected, found))
    assert other.state() == feed.state()


def test_a_state_is_a_few_numbers_per_lane(corpus: Corpus) -> None:
    feed = lanes_of(corpus, 8)
    list(islice(feed, 50))
    assert len(json.dumps(feed.state())) < 8 * 60 + 80


def test_a_state_of_another_number_of_lanes_is_refused(corpus: Corpus) -> None:
    with pytest.raises(RitornelloError, match="3 lanes, its saved state 2"):
        lanes_of(corpus, 3).restore(lanes_of(corpus, 2).state())


def test_a_state_of_another_corpus_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", {"train": made_up_tokens(1, 10)})
    with pytest.raises(RitornelloError, match="same corpus") as refusal:
        lanes_of(other).restore(lanes_of(corpus).state())
    assert str(other.path) in str(refusal.value)


# ---- grammar ----


def test_contexts_tell_what_was_legal_at_every_token(corpus: Corpus) -> None:
    moves = Augmentation(semitones=4, stretch=0.1)
    begun = readings(lanes_of(corpus, 2, grammar=True, epochs=1, augmentation=moves))
    for reading in begun:
        grammar = codec.Grammar()
        for token, context in zip(reading.targets, reading.contexts, strict=True):
            legal = grammar.legal()
            assert np.array_equal(codec.legal_events(codec.Context(*map(np.asarray, context))), legal)
            assert legal[token]
            grammar.advance(token)
        whole = codec.contexts(np.array(reading.targets))
        for rows, expected in zip(zip(*reading.contexts), whole):
            assert np.array_equal(np.array(rows), expected)


def test_something_is_legal_where_nothing_is_predicted(corpus: Corpus) -> None:
    for batch in lanes_of(corpus, 9, epochs=1, grammar=True):
        assert codec.legal_events(batch.context).any(-1).all()


# ---- augmentation ----


def moved_pieces(piece: Piece, augmentation: Augmentation, count: int) -> list[Piece]:
    tokens = codec.encode(piece)
    return [codec.decode(augmentation(tokens, np.random.default_rng(seed))) for seed in range(count)]


def scale(*pitches: int) -> Piece:
    """One note a second, half a second long."""
    onset = np.arange(len(pitches), dtype=float)
    return Piece(onset, onset + 0.5, np.array(pitches), np.full(len(pitches), 64))


@pytest.mark.parametrize(
    ("pitches", "expected"),
    [
        ((60, 64, 67), range(-3, 4)),
        ((22, 60), range(-1, 4)),
        ((60, 107), range(-3, 2)),
        ((21, 108), range(1)),
        ((12, 60), range(4)),
        ((60, 120), range(-3, 1)),
        ((0, 127), range(1)),
    ],
)
def test_transposition_draws_every_shift_that_stays_on_the_piano(pitches: tuple[int, ...], expected: range) -> None:
    piece = scale(*pitches)
    shifts = set()
    for moved in moved_pieces(piece, Augmentation(semitones=3), 200):
        (shift,) = set((moved.pitch.astype(int) - piece.pitch).tolist())  # all intervals kept
        shifts.add(shift)
        assert np.array_equal(moved.onset, piece.onset)
        assert np.array_equal(moved.offset, piece.offset)
    assert shifts == set(expected)


@pytest.mark.parametrize("semitones", [-9, -1, 0, 5])
def test_transposed_tokens_are_those_of_the_transposed_piece(semitones: int) -> None:
    for tokens in made_up_tokens(2, 5, 80):
        expected = codec.encode(codec.decode(tokens).transposed(semitones))
        assert np.array_equal(transposed(tokens, semitones), expected)


def test_stretching_scales_every_time_and_keeps_the_notes() -> None:
    piece = codec.decode(made_up_tokens(4, 60)[0])
    most = 0.2
    for moved in moved_pieces(piece, Augmentation(stretch=most), 50):
        factor = moved.seconds / piece.seconds
        assert 1 / (1 + most) - 0.001 <= factor <= 1 + most + 0.001
        assert len(piece) - 2 <= len(moved) <= len(piece)  # strikes of one key may fall into one step
        if len(moved) == len(piece):
            assert sorted(moved.pitch) == sorted(piece.pitch)
            assert np.abs(np.sort(moved.onset) - np.sort(piece.onset) * factor).max() < 0.02


def test_stretch_factors_are_uniform_on_a_logarithmic_scale() -> None:
    piece = scale(*[60] * 100)
    most = math.log(1.5)
    logs = np.sort([math.log(p.seconds / piece.seconds) for p in moved_pieces(piece, Augmentation(stretch=0.5), 1000)])
    uniform = np.linspace(-most, most, len(logs))
    distance = np.abs(logs - uniform).max() / (2 * most)
    assert distance < 1.95 / math.sqrt(len(logs)), "Kolmogorov and Smirnov reject uniformity at 0.1 %"


def test_no_augmentation_leaves_the_tokens_alone() -> None:
    for tokens in made_up_tokens(5, 3, 40):
        assert np.array_equal(Augmentation()(tokens, np.random.default_rng(0)), tokens)


def test_augmentation_depends_on_seed_epoch_and_piece_alone(corpus: Corpus) -> None:
    options = {"augmentation": Augmentation(semitones=6, stretch=0.3), "epochs": 2}

    def heard(lanes: int, seed: int) -> list[tuple[int, list[int]]]:
        return [(r.piece, r.targets) for r in readings(lanes_of(corpus, lanes, seed=seed, **options))]

    two = heard(2, seed=1)
    assert two == heard(5, seed=1)
    n = len(corpus.pieces("train"))
    first, second = dict(two[:n]), dict(two[n:])
    assert sum(first[piece] != second[piece] for piece in first) >= n - 1, "an epoch repeats the one before"
    assert dict(heard(2, seed=2)[:n]) != first


@pytest.mark.parametrize(
    ("name", "value"),
    [("semitones", -1), ("semitones", 25), ("stretch", -0.1), ("stretch", 1.5), ("stretch", math.nan)],
)
def test_augmentation_outside_its_limits_is_refused(name: str, value: float) -> None:
    with pytest.raises(RitornelloError, match=f"{name} is {value}"):
        Augmentation(**{name: value})  # type: ignore[arg-type]


# ---- refusals ----


@pytest.mark.parametrize("lanes", [0, -1, 65537])
def test_an_absurd_number_of_lanes_is_refused(corpus: Corpus, lanes: int) -> None:
    with pytest.raises(RitornelloError, match=f"lanes is {lanes}"):
        lanes_of(corpus, lanes)


@pytest.mark.parametrize("interleave", [0, 1025])
def test_an_absurd_number_of_groups_is_refused(corpus: Corpus, interleave: int) -> None:
    with pytest.raises(RitornelloError, match=f"interleave is {interleave}"):
        lanes_of(corpus, 2, interleave=interleave)


def test_a_finite_feed_takes_no_turns(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="endless"):
        lanes_of(corpus, 2, interleave=2, epochs=1)


def test_a_split_without_pieces_is_refused(corpus: Corpus) -> None:
    with pytest.raises(RitornelloError, match="no pieces in split 'test'"):
        Lanes(corpus, "test", lanes=1, segment_tokens=S)
