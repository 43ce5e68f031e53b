"""Lanes packed for a device: 48 bytes hold all that a model and its loss take of a token, made by processes ahead.

A piece's hints and grammar take a processor about seven microseconds a token, in which a large GPU trains on several.
But they follow from (seed, epoch, piece) alone, and which pieces come next is known: processes make them while the
lanes read. Batches and state are those of `Lanes`.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, count, cycle, islice
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec import steering
from ritornello.corpus import PieceRecord
from ritornello.feed.lanes import Lanes, _Lane
from ritornello.workers import end_with_parent, unbroken, usable_processors

TOKEN = np.dtype(
    [
        ("target", "<i2"),
        ("input", "<i2", (1 + codec.HINT_COLUMNS + steering.COLUMNS,)),  # the token before, its hint and labels, else 0
        ("sounding", "u1", (16,)),  # the target's grammar context: a bit for each of 128 keys,
        ("numbers", "u1", (3,)),  # floors of strikes and releases and the velocity bin, each plus one,
        ("flags", "u1"),  # and after_velocity, may_shift, may_end as bits
    ]
)
AHEAD = 8
"""pieces made ahead, for each process: none waits for the longest piece of all while that is no longer than 8 others"""
FLAGS = ("after_velocity", "may_shift", "may_end")


class PackedBatch(NamedTuple):
    """One segment of every lane."""

    rows: NDArray[np.uint8]  # (B, T, 48) the bytes of TOKEN
    position: NDArray[np.int64]  # (B,) tokens of the piece before this segment; 0 for a lane that begins one, or idles
    group: int
    tokens: int  # predicted, by the lanes of other processes too


class PackedLanes(Lanes):
    """`Lanes` whose batches are packed.

    Args:
        workers: processes that make pieces ahead; None for as many as there are processors, less two for training, and
            0 for none. They start with the first batch, and each imports what the main script imports at its top.
        arguments: those of `Lanes`.

    Raises:
        RitornelloError: as `Lanes`, and from a batch on if processes cannot start or one was killed.
    """

    def __init__(self, *arguments: Any, workers: int | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._workers = max(1, usable_processors() - 2) if workers is None else workers
        self._pool: ProcessPoolExecutor | None = None
        self._prefetched: dict[tuple[int, int], Future[NDArray[np.uint8]]] = {}
        self._later: dict[int, NDArray[np.int64]] = {}  # the orders of later epochs

    def restore(self, state: dict[str, Any]) -> None:
        """As of `Lanes`; the pieces that lanes stand in are made side by side."""
        with unbroken():
            for i, lane in enumerate(state["lanes"] if self._workers else ()):
                if lane and i in self._own:
                    self._begin(lane["epoch"], lane["piece"])
        super().restore(state)

    def packed(self, epoch: int, piece: int) -> NDArray[np.uint8]:
        """A piece as an epoch reads it, (tokens, 48) the bytes of TOKEN."""
        lane = super()._load(epoch, piece, 0, True)
        return packed(lane.tokens, lane.context, lane.hints, lane.labels)

    def _begin(self, epoch: int, piece: int) -> Future[NDArray[np.uint8]]:
        if self._pool is None:
            here = copy.copy(self)
            here._lanes, here._prefetched, here._exchange = [], {}, dict
            # Of records each call brings its own: a process that is sent more than a pipe holds (64 KiB) must have
            # imported everything before the next can start, and if it dies before that, whoever sends waits for ever.
            here.records, here._later = [], {}
            del here._order_of, here._order
            spawn = get_context("spawn")  # a fork of a process that uses CUDA cannot
            self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=_serve, initargs=(here,))
        if (epoch, piece) not in self._prefetched:
            self._prefetched[epoch, piece] = self._pool.submit(_made, epoch, piece, self.records[piece])
        return self._prefetched[epoch, piece]

    def _load(self, epoch: int, piece: int, position: int, own: bool) -> _Lane:
        if not own:
            return super()._load(epoch, piece, position, own)
        if not self._workers:
            rows = self.packed(epoch, piece)
        else:
            with unbroken():
                future = self._begin(epoch, piece)
                for coming in islice(self._coming(), AHEAD * self._workers):
                    self._begin(*coming)
                rows = future.result()
            # Without what was made for a lane of another process after all.
            self._prefetched = {
                k: f for k, f in self._prefetched.items() if k != (epoch, piece) and k[0] >= self._epoch
            }
        return _Lane(epoch, piece, position, len(rows), rows, None, None, None)

    def _coming(self) -> Iterator[tuple[int, int]]:
        """The pieces that own lanes will take next, as far as it is known which lanes end first."""
        lanes, turns = len(self._lanes) // self._interleave, range(self._group - 1, self._group - 1 + self._interleave)
        place = {turn % self._interleave: i for i, turn in enumerate(turns)}

        def segments_left(i: int) -> tuple[int, int, int]:
            lane = self._lanes[i]
            left = -(-(lane.length - lane.position) // self.segment_tokens) if lane else 0
            return left, place[i // lanes], i

        now = ((self._epoch, int(piece)) for piece in self._order[self._next :])
        epochs = count(self._epoch + 1) if self._epochs is None else ()
        later = ((epoch, int(piece)) for epoch in epochs for piece in self._order_later(epoch))
        if len(self._own) == len(self._lanes):
            return chain(now, later)
        ending = cycle(sorted(range(len(self._lanes)), key=segments_left))
        return (key for i, key in zip(ending, chain(now, later)) if i in self._own)

    def _order_later(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._later:
            later = {number: order for number, order in self._later.items() if number > self._epoch}
            self._later = {**later, epoch: self._order_of(epoch)}
        return self._later[epoch]

    def _batch(self, lanes: list[_Lane | None], turn: range, group: int) -> PackedBatch:  # type: ignore[override]
        busy = [lane for i in turn if (lane := self._lanes[i])]
        if not busy:
            raise StopIteration
        # As bytes: a structure is copied field by field, ten times as slowly.
        rows = np.empty((len(lanes), self.segment_tokens, TOKEN.itemsize), np.uint8)
        position = np.array([own.position if own else 0 for own in lanes])
        for i, own in enumerate(lanes):
            part = own.tokens[own.position : own.position + self.segment_tokens] if own else rows[i, :0]
            rows[i, : len(part)], rows[i, len(part) :] = part, BLANK
        return PackedBatch(rows, position, group, self._advance(busy))


def packed(
    tokens: NDArray[Any],
    context: codec.Context | None,
    hints: NDArray[np.int16] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """The tokens of a piece (T,), their grammar contexts, hints and labels -> (T, 48) the bytes of TOKEN."""
    rows = np.zeros(len(tokens), TOKEN)
    rows["target"] = tokens
    rows["input"][:, 0] = np.concatenate([[codec.START], tokens[:-1]])
    if hints is not None:
        rows["input"][:, 1 : 1 + codec.HINT_COLUMNS] = hints
    if labels is not None:
        rows["input"][:, 1 + codec.HINT_COLUMNS :] = labels
    if context is not None:
        rows["sounding"] = np.packbits(context.sounding, axis=-1, bitorder="little")
        rows["numbers"] = np.stack([context.floor_on, context.floor_off, context.velocity], -1) + 1
        rows["flags"] = sum(getattr(context, name).astype(np.uint8) << bit for bit, name in enumerate(FLAGS))
    return rows.view(np.uint8).reshape(len(rows), TOKEN.itemsize)


def _blank() -> NDArray[np.uint8]:
    """A row where nothing is read and nothing predicted: anything legal will do, as long as something is."""
    end = np.array([codec.END])
    row = packed(end, codec.contexts(end), np.array([codec.NOTHING], np.int16))
    fields = row.view(TOKEN)
    fields["target"], fields["input"][..., 0] = codec.PAD, codec.PAD
    return row[0]


BLANK = _blank()
_served: PackedLanes  # in a process that makes pieces: its copy of the lanes


def _serve(lanes: PackedLanes) -> None:
    global _served
    _served = lanes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever trains ends this process, or is no more
    end_with_parent()


def _made(epoch: int, piece: int, record: PieceRecord) -> NDArray[np.uint8]:
    _served.records = {piece: record}  # type: ignore[assignment]
    return _served.packed(epoch, piece)
