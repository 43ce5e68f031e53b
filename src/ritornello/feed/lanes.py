"""Lanes that read whole pieces, segment by segment: what recurrent models train on, and all models are evaluated on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec import steering
from ritornello.corpus import Corpus, PieceRecord
from ritornello.errors import RitornelloError, check_limits, counted

LOWEST_KEY, HIGHEST_KEY = 21, 108  # of a piano


@dataclass(frozen=True)
class Augmentation:
    """How far a piece is moved before it is read, drawn anew each epoch."""

    semitones: int = 0
    """transposed by up to this many semitones either way, within the piano's keys"""
    stretch: float = 0.0
    """time multiplied by a factor between 1 / (1 + stretch) and 1 + stretch, uniform on a logarithmic scale"""

    def __post_init__(self) -> None:
        check_limits(augmentation__semitones=(self.semitones, 0, 24), augmentation__stretch=(self.stretch, 0, 1))

    def __call__(self, tokens: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
        """A moved copy of a piece's tokens (T,) -> (T',)."""
        factor = math.exp(rng.uniform(-1, 1) * math.log1p(self.stretch))
        if factor != 1:
            tokens = codec.encode(codec.decode(tokens).stretched(factor))
        return transposed(tokens, _draw_semitones(tokens, self.semitones, rng))


def transposed(tokens: NDArray[np.uint16], semitones: int) -> NDArray[np.uint16]:
    """Tokens (T,) with every pitch moved; no pitch may leave 0-127."""
    is_note = tokens < codec.SHIFT
    return np.where(is_note, tokens.astype(np.int64) + semitones, tokens).astype(np.uint16)


def _draw_semitones(tokens: NDArray[np.uint16], most: int, rng: np.random.Generator) -> int:
    pitches = tokens[tokens < codec.NOTE_OFF].astype(int)
    if not len(pitches):
        return 0
    low = max(-most, min(0, LOWEST_KEY - int(pitches.min())))
    high = min(most, max(0, HIGHEST_KEY - int(pitches.max())))
    return int(rng.integers(low, high + 1))


class Batch(NamedTuple):
    """One segment of every lane."""

    inputs: NDArray[np.int64]  # (B, T), or with hints (B, T, ...), what is read: START, then each token's predecessor
    targets: NDArray[np.int64]  # (B, T) what it is to predict; PAD behind a piece's end
    starts: NDArray[np.bool_]  # (B,) lanes that begin a piece with this segment
    context: codec.Context | None  # of the targets, (B, T, ...); None where the grammar is not asked for
    piece: NDArray[np.int64]  # (B,) index of the piece in the split; -1 for an idle lane
    position: NDArray[np.int64]  # (B,) tokens of the piece before this segment
    group: int = 0  # of the lanes that these B are
    tokens: int = 0  # predicted, by the lanes of other processes too


@dataclass
class _Lane:
    epoch: int
    piece: int
    position: int
    length: int
    tokens: NDArray[Any]  # (T,); packed (T, 48) in `PackedLanes`; empty in another process's lane
    context: codec.Context | None
    hints: NDArray[np.int16] | None
    labels: NDArray[np.int64] | None


class Order:
    """Which pieces of a split each epoch reads, in which order.

    An epoch reads each piece as often as its source's weight says: of a weight of 0.5, half the pieces, and the other
    half in the next epoch; of 2, all of them twice. Arguments are those of `Lanes`.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        seed: int,
        shuffle: bool = True,
        balance_titles: bool = False,
        pieces: list[int] | None = None,
    ) -> None:
        self.records: Sequence[PieceRecord] = corpus.pieces(split)
        self._seed, self._shuffle = seed, shuffle
        self._indices = np.arange(len(self.records)) if pieces is None else np.asarray(pieces)
        self._tokens = np.fromiter((record.tokens for record in self.records), np.int64, len(self.records))
        self._titles = self._performances_by_title() if balance_titles else None
        weights = [float(source["weight"]) for source in corpus.sources] if shuffle else [1.0]
        self._shares = [(1.0, np.arange(len(self._titles or self._indices)))]
        if len(weights) > 1 or weights[0] != 1:
            firsts = self._indices if self._titles is None else [performances[0] for performances in self._titles]
            of_source = np.array([self.records[int(first)].source for first in firsts])
            self._shares = [(weight, np.flatnonzero(of_source == source)) for source, weight in enumerate(weights)]

    @property
    def tokens(self) -> int:
        """Those of all pieces that may be read."""
        return int(self._tokens[self._indices].sum())

    def __call__(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's pieces: indices of the split."""
        turns = [self._turns(place, epoch) for place in range(len(self._shares))]
        units, rounds = (np.concatenate(columns) for columns in zip(*turns))
        order = np.argsort(units, kind="stable")
        units, rounds = units[order], rounds[order]
        pieces = self._indices[units] if self._titles is None else self._of_each_title(self._titles, units, rounds)
        if self._shuffle:
            return np.random.default_rng([self._seed, epoch]).permutation(pieces)
        return pieces[np.argsort(-self._tokens[pieces], kind="stable")]

    def _turns(self, source: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pieces (or titles) that an epoch reads of a source, and how often each was read before."""
        weight, units = self._shares[source]
        turns = np.arange(round(epoch * weight * len(units)), round((epoch + 1) * weight * len(units)))
        rounds, place = np.divmod(turns, max(1, len(units)))
        if weight != 1:
            for turn in set(rounds.tolist()):
                order = np.random.default_rng([self._seed, turn, source]).permutation(len(units))
                place[rounds == turn] = order[place[rounds == turn]]
        return units[place], rounds

    def _performances_by_title(self) -> list[list[int]]:
        titles: dict[tuple[str, ...], list[int]] = {}
        for i in map(int, self._indices):
            record = self.records[i]
            titles.setdefault((record.composer, record.title) if record.title else (str(i),), []).append(i)
        return list(titles.values())

    def _of_each_title(
        self, titles: list[list[int]], units: NDArray[np.int64], rounds: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """A performance of each: all of a title's are read before one of them is again."""
        chosen = []
        for number, times in zip(units.tolist(), rounds.tolist()):
            turn, place = divmod(times, len(titles[number]))
            chosen.append(np.random.default_rng([self._seed, turn, number]).permutation(titles[number])[place])
        return np.array(chosen)


class Lanes:
    """An endless (or, with ``epochs``, finite) stream of batches over one split.

    Each epoch visits every piece once (or, ``balance_titles``, every title once); a lane that finishes a piece takes
    the next of the order with its next segment, so no lane waits for another. Only a piece's last segment is padded.

    Args:
        lanes: B.
        segment_tokens: S.
        interleave: how many groups of B lanes take turns: neighbouring batches come from other pieces. More than one
            only in an endless stream.
        seed: of order and augmentation.
        shuffle: a fresh order each epoch; else longest pieces first, which keeps all lanes busy in a finite stream.
        balance_titles: an epoch reads one performance of each title, the next epoch another, so that what many have
            played is not heard more often. A piece without a title is one of its own.
        piece_tokens: how far pieces are read, at most; None for to their ends.
        epochs: how often every piece is read; None for ever.
        grammar: whether batches hold the targets' grammar contexts.
        motif_notes: size of the motif memory that inputs hold the hints of; 0 for inputs without.
        called: share of a piece's returns that are called back (`codec.returns`): told from their first strike on.
        labels: that inputs tell (see `codec.steering`), by name; none for inputs without.
        label_share: share of segments that carry any label; each label of these is told in half of them. A source is
            always told: without its label a model is to play as the others do.
        pieces: only these indices of the split; None for all.
        share: those of the B lanes that batches hold, where other processes have the others; None for all.
        exchange: gives the numbers of all processes for those of this one. It is told the length of what they begin.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        lanes: int,
        segment_tokens: int,
        interleave: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        balance_titles: bool = False,
        piece_tokens: int | None = None,
        epochs: int | None = None,
        augmentation: Augmentation | None = None,
        grammar: bool = False,
        motif_notes: int = 0,
        called: float = 0.0,
        labels: tuple[str, ...] = (),
        label_share: float = 0.0,
        pieces: list[int] | None = None,
        share: slice | None = None,
        exchange: Callable[[dict[int, int]], dict[int, int]] = dict,
    ) -> None:
        check_limits(lanes=(lanes, 1, 65536), interleave=(interleave, 1, 1024))
        if interleave > 1 and epochs is not None:
            raise ValueError("groups take turns in an endless stream only")
        self.corpus = corpus
        self._order_of = Order(corpus, split, seed=seed, shuffle=shuffle, balance_titles=balance_titles, pieces=pieces)
        self.records = self._order_of.records
        self.segment_tokens = segment_tokens
        self._seed, self._epochs = seed, epochs
        self._augmentation, self._grammar, self._motif_notes = augmentation, grammar, motif_notes
        self._called = called
        self._labels, self._label_share = {name: number for number, name in enumerate(labels, 1)}, label_share
        self._piece_tokens = piece_tokens
        self._epoch, self._next = 0, 0
        self._order = self._order_of(0)
        self._lanes: list[_Lane | None] = [None] * (lanes * interleave)
        self._interleave, self._group = interleave, 0
        own = np.arange(lanes * interleave).reshape(interleave, lanes)[:, share or slice(None)]
        self._own, self._exchange = frozenset(own.flat), exchange

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        group, size = self._group, len(self._lanes) // self._interleave
        self._group = (group + 1) % self._interleave
        turn = range(group * size, (group + 1) * size)
        over = [i for i in turn if (lane := self._lanes[i]) is None or lane.position >= lane.length]
        for i in over:
            self._lanes[i] = self._take(i in self._own)
        self._learn_lengths(over)
        return self._batch([self._lanes[i] for i in turn if i in self._own], turn, group)

    def state(self) -> dict[str, Any]:
        """Where every lane stands, as JSON-able integers."""
        lanes = [lane and {"epoch": lane.epoch, "piece": lane.piece, "position": lane.position} for lane in self._lanes]
        counts = {"epoch": self._epoch, "next": self._next, "group": self._group}
        return {"corpus_tokens": self._order_of.tokens, **counts, "lanes": lanes}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken, in a feed made with the same arguments.

        Raises:
            RitornelloError: if the pieces or the number of lanes are others than then.
        """
        check_corpus(self.corpus, self._order_of.tokens, state.get("corpus_tokens", self._order_of.tokens))
        if len(state["lanes"]) != len(self._lanes):
            raise RitornelloError(
                f"the feed has {counted(len(self._lanes), 'lanes')}, its saved state {len(state['lanes'])}"
            )
        self._epoch, self._next, self._group = state["epoch"], state["next"], state.get("group", 0)
        self._order = self._order_of(self._epoch)
        self._lanes = [
            lane and self._load(lane["epoch"], lane["piece"], lane["position"], i in self._own)
            for i, lane in enumerate(state["lanes"])
        ]
        self._learn_lengths(range(len(self._lanes)))

    @property
    def epoch(self) -> int:
        """The epoch that pieces are being taken from, from 0."""
        return self._epoch

    def _take(self, own: bool) -> _Lane | None:
        while self._next >= len(self._order):  # an epoch of small weights may be empty
            if self._epochs is not None and self._epoch + 1 >= self._epochs:
                return None
            self._epoch, self._next = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        piece = int(self._order[self._next])
        self._next += 1
        return self._load(self._epoch, piece, 0, own)

    def _learn_lengths(self, lanes: Iterable[int]) -> None:
        """Of what the lanes of other processes read, which only they know once it is stretched."""
        begun = {i: lane for i in lanes if (lane := self._lanes[i]) is not None}
        if begun:
            for i, length in self._exchange({i: lane.length for i, lane in begun.items() if i in self._own}).items():
                begun[i].length = length

    def _load(self, epoch: int, piece: int, position: int, own: bool) -> _Lane:
        if not own:
            return _Lane(epoch, piece, position, 0, np.zeros(0, np.uint16), None, None, None)
        tokens = self.corpus.tokens(self.records[piece])
        if self._augmentation is not None:
            tokens = self._augmentation(tokens, np.random.default_rng([self._seed, epoch, piece]))
        tokens = tokens[: self._piece_tokens]
        context = codec.contexts(tokens) if self._grammar else None
        hints = None
        if self._motif_notes:
            hints = codec.hints(tokens, notes=self._motif_notes, calls=self._calls(epoch, piece, tokens))
        labels = self._labels_of(epoch, piece, tokens) if self._labels else None
        return _Lane(epoch, piece, position, len(tokens), tokens, context, hints, labels)

    def _calls(self, epoch: int, piece: int, tokens: NDArray[np.uint16]) -> dict[int, tuple[int, int]] | None:
        if not self._called:
            return None
        rng = np.random.default_rng([self._seed, epoch, piece, 2])
        returns = codec.returns(tokens, notes=self._motif_notes)
        return {strike: place for strike, place in returns.items() if rng.random() < self._called}

    def _labels_of(self, epoch: int, piece: int, tokens: NDArray[np.uint16]) -> NDArray[np.int64]:
        """(T, COLUMNS) what is told with each token; 0 for nothing, or where there is no such label."""
        record = self.records[piece]
        of_piece = (f"composer={record.composer}", f"source={self.corpus.sources[record.source]['name']}")
        numbers = np.zeros((len(tokens), steering.COLUMNS), np.int64)
        numbers[:, :2] = [self._labels.get(name, 0) for name in of_piece]
        steps = steering.following(tokens)
        firsts = np.array([self._labels[f"{name}=1"] for name in steering.EDGES])
        numbers[:, 2:] = np.where(steps > 0, firsts + steps - 1, 0)
        rng, segments = np.random.default_rng([self._seed, epoch, piece, 1]), -(-len(tokens) // self.segment_tokens)
        carried = rng.random((segments, steering.COLUMNS)) < 0.5
        carried &= rng.random((segments, 1)) < self._label_share
        carried[:, steering.SOURCE] = True
        return numbers * np.repeat(carried, self.segment_tokens, axis=0)[: len(tokens)]

    def _batch(self, lanes: list[_Lane | None], turn: range, group: int) -> Batch:
        busy = [lane for i in turn if (lane := self._lanes[i])]
        if not busy:
            raise StopIteration
        n, width = len(lanes), self.segment_tokens  # always: another shape would be another compilation
        inputs = np.full((n, width), codec.PAD, np.int64)
        targets = np.full((n, width), codec.PAD, np.int64)
        hints = np.full((n, width, codec.HINT_COLUMNS), codec.NOTHING) if self._motif_notes else None
        labels = np.zeros((n, width, steering.COLUMNS), np.int64) if self._labels else None
        piece, position = np.full(n, -1), np.zeros(n, np.int64)
        context = blank_context(n, width) if self._grammar else None
        for i, lane in enumerate(lanes):
            if lane is None:
                continue
            start, stop = lane.position, min(lane.position + width, lane.length)
            targets[i, : stop - start] = lane.tokens[start:stop]
            inputs[i, 0] = lane.tokens[start - 1] if start else codec.START
            inputs[i, 1 : stop - start] = lane.tokens[start : stop - 1]
            if hints is not None and lane.hints is not None:
                hints[i, : stop - start] = lane.hints[start:stop]
            if labels is not None and lane.labels is not None:
                labels[i, : stop - start] = lane.labels[start:stop]
            piece[i], position[i] = lane.piece, start
            if context is not None and lane.context is not None:
                for field, source in zip(context, lane.context):
                    field[i, : stop - start] = source[start:stop]
        inputs = codec.with_hints(inputs, hints, labels)
        return Batch(inputs, targets, position == 0, context, piece, position, group, self._advance(busy))

    def _advance(self, lanes: list[_Lane]) -> int:
        """Moves lanes on by a segment; how many tokens they predict in it."""
        predicted = [min(self.segment_tokens, lane.length - lane.position) for lane in lanes]
        for lane, count in zip(lanes, predicted):
            lane.position += count
        return sum(predicted)


def check_corpus(corpus: Corpus, tokens: int, before: int) -> None:
    """Raises RitornelloError for a corpus that holds not as much to read as it did before."""
    if tokens != before:
        held = f"holds {tokens:,} tokens to read, the run's corpus held {before:,}"
        raise RitornelloError(f"{corpus.path}: {held}; go on with the same corpus")


def blank_context(n: int, width: int) -> codec.Context:
    """Contexts of rows where nothing is predicted: anything legal will do, as long as something is."""
    row = codec.contexts(np.array([codec.END]))
    return codec.Context(*(np.repeat(np.repeat(field[None], n, 0), width, 1) for field in row))
