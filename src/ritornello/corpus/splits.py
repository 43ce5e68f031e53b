"""Which pieces are held out, and which copies are left out so that nothing held out is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ritornello.corpus.shards import SPLITS
from ritornello.corpus.sources import Source

HELD_OUT_SHARE = 0.1  # of the pieces, for validation and again for test, where the source names no splits


@dataclass(frozen=True)
class Tokenised:
    """A tokenised source; ``start`` and ``tokens`` place it in the spool file."""

    source: Source
    start: int
    tokens: int
    notes: int
    seconds: float
    digest: bytes


def assign_splits(pieces: list[Tokenised], seed: int) -> list[Tokenised]:
    """Pieces with a split each: the given one, or the seed's choice, which keeps equal pieces together."""
    if pieces[0].source.split:
        return pieces
    digests = list(dict.fromkeys(piece.digest for piece in sorted(pieces, key=lambda piece: piece.source.name)))
    held_out = max(1, round(HELD_OUT_SHARE * len(digests)))
    sizes = [0, min(held_out, max(0, len(digests) - 1)), min(held_out, max(0, len(digests) - 2))]
    sizes[0] = len(digests) - sum(sizes)
    order = np.random.default_rng(seed).permutation(len(digests))
    labels = np.repeat(SPLITS, sizes)
    split_of = {digests[place]: str(label) for place, label in zip(order, labels, strict=True)}
    return [replace(piece, source=piece.source._replace(split=split_of[piece.digest])) for piece in pieces]


def without_leaks(pieces: list[Tokenised]) -> tuple[list[Tokenised], list[dict[str, object]]]:
    """The pieces less the train copies of what another split holds too, and every group of equal pieces."""
    groups: dict[bytes, list[Tokenised]] = {}
    for piece in pieces:
        groups.setdefault(piece.digest, []).append(piece)
    duplicates: list[dict[str, object]] = []
    left_out: set[int] = set()
    for group in groups.values():
        if len(group) < 2:
            continue
        leaks = len({piece.source.split for piece in group}) > 1
        dropped = [piece for piece in group if leaks and piece.source.split == "train"]
        left_out.update(piece.start for piece in dropped)
        duplicates.append(
            {
                "files": [piece.source.name for piece in group],
                "splits": [piece.source.split for piece in group],
                "left_out": [piece.source.name for piece in dropped],
            }
        )
    return [piece for piece in pieces if piece.start not in left_out], duplicates
