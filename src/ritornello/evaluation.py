"""Streamed full-piece likelihood: every token of every piece predicted once, each piece from an empty state.

Figures: nats/token is the mean over all predicted tokens of a split (END included), perplexity its exponential;
nats/note and nats/second divide the same sum by the notes and the seconds of music. ``legal`` figures are under the
grammar, ``free`` ones over all events.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.corpus import Corpus, PieceRecord
from ritornello.feed import Lanes

if TYPE_CHECKING:
    from ritornello.engines import Engine
    from ritornello.training.ranks import Ranks

LANES = 8  # read side by side
READ_TOKENS = 4096  # of a piece at once by an engine
POSITION_EDGES_TOKENS = (0, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # the last bin is open


@dataclass(frozen=True)
class Evaluation:
    """Likelihood of a set of pieces, token by token."""

    records: tuple[PieceRecord, ...]
    nats: tuple[NDArray[np.float32], ...]
    """per piece, (tokens,) -ln p of every token in order"""
    legal: bool

    @property
    def nats_per_token(self) -> float:
        """Mean over every predicted token of every piece."""
        return self._total / sum(len(piece) for piece in self.nats)

    @property
    def _total(self) -> float:
        return math.fsum(float(piece.sum(dtype=np.float64)) for piece in self.nats)

    def by_position(self) -> list[dict[str, Any]]:
        """Rows from, to (None = open end), tokens, nats_per_token, by position in the piece; no empty ones."""
        rows = []
        for low, high in zip(POSITION_EDGES_TOKENS, (*POSITION_EDGES_TOKENS[1:], None)):
            inside = [piece[low:high] for piece in self.nats]
            count = sum(map(len, inside))
            if count:
                mean = math.fsum(float(part.sum(dtype=np.float64)) for part in inside) / count
                rows.append({"from": low, "to": high, "tokens": count, "nats_per_token": mean})
        return rows

    def figures(self) -> dict[str, Any]:
        notes = sum(record.notes for record in self.records)
        seconds = sum(record.seconds for record in self.records)
        return {
            "kind": "legal" if self.legal else "free",
            "pieces": len(self.records),
            "tokens": sum(len(piece) for piece in self.nats),
            "nats_per_token": self.nats_per_token,
            "perplexity": math.exp(self.nats_per_token),
            "nats_per_note": self._total / notes,
            "nats_per_second": self._total / seconds,
            "by_position": self.by_position(),
        }


def evaluate(
    model: Any,
    corpus: Corpus,
    split: str,
    *,
    legal: bool,
    lanes: int = LANES,
    pieces: list[int] | None = None,
    precision: str = "fp32",
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Reads whole pieces of a split in ``lanes`` lanes; the figures do not depend on how many.

    Args:
        model: a `Model`; its training mode is restored afterwards.
        corpus: the packed corpus.
        split: train, validation or test.
        legal: mask illegal events before the softmax.
        lanes: pieces read side by side, at most.
        pieces: only these indices of the split; None for all.
        precision: of matrix products, see `likelihood.autocast`.
        ranks: processes that read a share each, and all get the figures of all; None for this one alone.
        progress: called with tokens done and tokens in all, of this process.
    """
    records = corpus.pieces(split)
    chosen = list(range(len(records)) if pieces is None else sorted(pieces))
    own = chosen if ranks is None else _share([records[i].tokens for i in chosen], chosen, ranks)
    how: dict[str, Any] = {"legal": legal, "lanes": lanes, "precision": precision, "progress": progress}
    read = _read(model, corpus, split, own, **how) if own else {}
    nats = read if ranks is None else {i: of_piece for part in ranks.all(read) for i, of_piece in part.items()}
    return Evaluation(tuple(records[i] for i in chosen), tuple(nats[i] for i in chosen), legal)


def _share(lengths: list[int], pieces: list[int], ranks: Ranks) -> list[int]:
    """This rank's of the pieces: the longest first, each goes to the rank that has least to read."""
    load, own = [0] * ranks.size, []
    for length, piece in sorted(zip(lengths, pieces), reverse=True):
        rank = load.index(min(load))
        load[rank] += length
        if rank == ranks.rank:
            own.append(piece)
    return sorted(own)


def _read(
    model: Any,
    corpus: Corpus,
    split: str,
    pieces: list[int],
    *,
    legal: bool,
    lanes: int,
    precision: str,
    progress: Callable[[int, int], None] | None,
) -> dict[int, NDArray[np.float32]]:
    """-ln p of every token of each of these pieces, one at least; arguments as in `evaluate`."""
    import torch

    from ritornello.likelihood import autocast, to_device, token_nats

    lengths = {i: corpus.pieces(split)[i].tokens for i in pieces}
    total, done = sum(lengths.values()), 0
    lanes = max(1, min(lanes, total // max(lengths.values())))  # more would stand idle behind the longest piece
    feed = Lanes(
        corpus,
        split,
        lanes=lanes,
        segment_tokens=model.segment_tokens,
        shuffle=False,
        epochs=1,
        grammar=legal,
        motif_notes=model.config.motif_notes,
        pieces=pieces,
    )
    nats = {i: np.zeros(length, np.float32) for i, length in lengths.items()}
    was_training, device = model.training, model.device
    model.eval()
    state = model.initial_state(lanes)
    try:
        for batch in feed:
            state = model.restart(state, torch.from_numpy(batch.starts))
            with torch.no_grad(), autocast(device, precision):
                logits, state = model(torch.from_numpy(batch.inputs).to(device), state)
            targets = torch.from_numpy(batch.targets).to(device)
            losses = token_nats(logits, targets, to_device(batch.context, device)).cpu().numpy()
            for lane, (piece, start) in enumerate(zip(batch.piece, batch.position)):
                length = int(np.count_nonzero(batch.targets[lane] != codec.PAD))
                if length:
                    nats[int(piece)][start : start + length] = losses[lane, :length]
                    done += length
            if progress is not None:
                progress(done, total)
    finally:
        model.train(was_training)
    return nats


def evaluate_engine(
    engine: Engine,
    corpus: Corpus,
    split: str,
    *,
    legal: bool,
    pieces: list[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """What an engine that plays thinks of whole pieces, one by one, without torch; arguments as in `evaluate`."""
    records = corpus.pieces(split)
    chosen = [records[i] for i in (range(len(records)) if pieces is None else sorted(pieces))]
    total, done, nats = sum(record.tokens for record in chosen), 0, []
    for record in chosen:
        session, of_piece = engine.begin(), []
        targets = corpus.tokens(record).astype(np.int64)
        inputs = np.r_[codec.START, targets[:-1]]
        context = codec.contexts(targets) if legal else None
        for first in range(0, len(targets), READ_TOKENS):
            rows = slice(first, first + READ_TOKENS)
            logits = session.score(inputs[rows]).astype(np.float64)
            if context is not None:
                logits[~codec.legal_events(codec.Context(*(field[rows] for field in context)))] = -np.inf
            highest = logits.max(axis=1)
            whole = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
            of_piece.append(whole - np.take_along_axis(logits, targets[rows, None], axis=1)[:, 0])
            done += len(logits)
            if progress is not None:
                progress(done, total)
        nats.append(np.concatenate(of_piece).astype(np.float32))
    return Evaluation(tuple(chosen), tuple(nats), legal)
