"""Crops of pieces for Perceivers: a context and the last Q tokens of it, by three ways to choose where.

``random_start`` is what PerceiverS (arXiv 2411.08307, section IV-A) says of its baseline, Perceiver AR: a window of N
tokens from anywhere. Only the last Q of a window are predicted, so no piece's beginning ever is. Effective segmentation
(section V-A) chooses the end instead, and takes what there is before it: ``random_end`` draws it, from Q on, which is
what Perceiver AR's own program does as well (google-research/perceiver-ar pads a piece on the left, then draws a
window); ``sequential`` goes through all ends Q apart, so that prefixes grow until they are windows, and windows slide.
Axes: B crops, M context tokens before the latents, Q latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError, check_limits
from ritornello.feed.lanes import Augmentation, Order, blank_context, check_corpus

SEGMENTATIONS = ("random_start", "random_end", "sequential")


class CropBatch(NamedTuple):
    """One crop of each of B pieces."""

    inputs: NDArray[np.int64]  # (B, M + Q) what the model reads; PAD left of the context, and behind a short piece
    targets: NDArray[np.int64]  # (B, Q) what it is to predict; PAD behind a piece that is shorter than Q
    before: NDArray[np.int64]  # (B,) how many of the M are no padding
    context: codec.Context | None  # of the targets, (B, Q, ...); None where the grammar is not asked for
    piece: NDArray[np.int64]  # (B,) index of the piece in the split
    position: NDArray[np.int64]  # (B,) tokens of the piece before the first target
    tokens: int = 0  # predicted, by the crops of other processes too


class Crops:
    """An endless stream of crops of one split. Each epoch visits every piece once, or every end of it.

    Args:
        lanes: B.
        context_tokens: N, context and latents together.
        latents: Q.
        segmentation: one of `SEGMENTATIONS`.
        seed: of order, crops and augmentation.
        motif_notes: size of the motif memory, of the whole piece, that inputs hold the hints of; 0 for inputs without.
        exchange: gives the numbers of all processes for those of this one. It is told how much they predict.
        others: see `Lanes`.

    Raises:
        RitornelloError: for a segmentation that does not exist, or Q greater than N.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        *,
        lanes: int,
        context_tokens: int,
        latents: int,
        segmentation: str,
        piece_tokens: int | None = None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        grammar: bool = False,
        motif_notes: int = 0,
        share: slice | None = None,
        exchange: Callable[[dict[int, int]], dict[int, int]] = dict,
    ) -> None:
        if segmentation not in SEGMENTATIONS:
            raise RitornelloError(f"unknown segmentation {segmentation!r}; there are {', '.join(SEGMENTATIONS)}")
        if not 1 <= latents <= context_tokens:
            raise RitornelloError(
                f"latents is {latents}; it must lie between 1 and the context's {context_tokens} tokens"
            )
        check_limits(lanes=(lanes, 1, 65536))
        self.corpus = corpus
        self._order_of = Order(corpus, split, seed=seed)
        self.records = self._order_of.records
        self._lanes, self._context_tokens, self._latents = lanes, context_tokens, latents
        self._segmentation, self._piece_tokens, self._seed = segmentation, piece_tokens, seed
        self._augmentation, self._grammar, self._motif_notes = augmentation, grammar, motif_notes
        self._own, self._exchange = range(lanes)[share or slice(None)], exchange
        self._epoch, self._next, self._crop = 0, 0, 0
        self._order = self._order_of(0)

    def __iter__(self) -> Iterator[CropBatch]:
        return self

    def __next__(self) -> CropBatch:
        crops = [crop for i in range(self._lanes) if (crop := self._take(i in self._own))]
        predicted = sum(min(end, self._latents) for *_, end in crops)
        return self._batch(crops, sum(self._exchange({self._own.start: predicted}).values()))

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON-able integers."""
        return {"corpus_tokens": self._order_of.tokens, "epoch": self._epoch, "next": self._next, "crop": self._crop}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken, in a feed made with the same arguments.

        Raises:
            RitornelloError: if the pieces are others than then.
        """
        check_corpus(self.corpus, self._order_of.tokens, state["corpus_tokens"])
        self._epoch, self._next, self._crop = state["epoch"], state["next"], state["crop"]
        self._order = self._order_of(self._epoch)

    @property
    def epoch(self) -> int:
        """The epoch that crops are being taken from, from 0."""
        return self._epoch

    def _take(self, own: bool) -> tuple[int, NDArray[np.uint16], int, int] | None:
        """A piece, its tokens, where the crop begins, and where it ends; None for another process's."""
        while self._next >= len(self._order):
            self._epoch, self._next = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        piece = int(self._order[self._next])
        if not own and self._segmentation != "sequential":  # where the next crop is depends on no other's length
            self._next += 1
            return None
        rng = np.random.default_rng([self._seed, self._epoch, piece])
        tokens = self.corpus.tokens(self.records[piece])
        if self._augmentation is not None:
            tokens = self._augmentation(tokens, rng)
        tokens = tokens[: self._piece_tokens]
        end = self._end(len(tokens), rng)
        # Where a piece ends is known once it is stretched.
        if self._segmentation == "sequential" and end < len(tokens):
            self._crop += 1
        else:
            self._next, self._crop = self._next + 1, 0
        return (piece, tokens, max(0, end - self._context_tokens), end) if own else None

    def _end(self, length: int, rng: np.random.Generator) -> int:
        if self._segmentation == "random_start":
            return min(length, self._context_tokens + int(rng.integers(0, max(0, length - self._context_tokens) + 1)))
        if self._segmentation == "random_end":
            return int(rng.integers(min(length, self._latents), length + 1))
        return min(length, (self._crop + 1) * self._latents)

    def _batch(self, crops: list[tuple[int, NDArray[np.uint16], int, int]], predicted: int) -> CropBatch:
        n, latents = len(crops), self._latents
        firsts = [max(0, end - latents) for _, _, _, end in crops]  # predicted from here on
        longest = max(first - begin for first, (_, _, begin, _) in zip(firsts, crops))
        memories = -(-longest // latents) * latents  # in steps, for every length is a compilation of its own
        inputs = np.full((n, memories + latents), codec.PAD, np.int64)
        targets = np.full((n, latents), codec.PAD, np.int64)
        hints = np.full((*inputs.shape, codec.HINT_COLUMNS), codec.NOTHING) if self._motif_notes else None
        context = blank_context(n, latents) if self._grammar else None
        for i, (first, (_, tokens, begin, end)) in enumerate(zip(firsts, crops)):
            read = (
                np.concatenate([[codec.START], tokens[: end - 1]])[begin:end]
                if begin == 0
                else tokens[begin - 1 : end - 1]
            )
            start = memories - (first - begin)
            inputs[i, start : start + len(read)] = read
            targets[i, : end - first] = tokens[first:end]
            if hints is not None:
                hints[i, start : start + len(read)] = codec.hints(tokens[:end], notes=self._motif_notes)[begin:]
            if context is not None:
                for field, source in zip(context, codec.contexts(tokens)):
                    field[i, : end - first] = source[first:end]
        before = np.array([first - begin for first, (_, _, begin, _) in zip(firsts, crops)])
        pieces = np.array([piece for piece, *_ in crops])
        inputs = codec.with_hints(inputs, hints)
        return CropBatch(inputs, targets, before, context, pieces, np.array(firsts), predicted)
