"""Which tokens of a piece belong to material that has returned, and how long ago it was played: what memory is for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ritornello import codec

PASSAGE_NOTES = 8
APART_TOKENS = 2000
AGE_EDGES_TOKENS = (0, 512, 2048, 8192)  # of returns, by how long ago they were played last; the last bin is open
NEVER = -1


def returning(
    tokens: NDArray[np.integer], *, notes: int = PASSAGE_NOTES, apart_tokens: int = APART_TOKENS
) -> NDArray[np.bool_]:
    """Tokens inside a passage that was played before, long ago.

    A passage is ``notes`` consecutive strikes, compared by their pitches in order; timing and dynamics may differ, as
    they do in performances. It has returned if it was struck once before and that time ended more than ``apart_tokens``
    before it begins again. Everything from its first strike to its last belongs to it.

    Args:
        tokens: (T,) events of one piece.
        notes: 1 to 9, so that a passage fits 63 bits.
        apart_tokens: distance between the end of the first time and the return.

    Returns:
        (T,) bool.
    """
    struck, passages = _passages(tokens, notes)
    inside = np.zeros(len(tokens) + 1, np.int64)
    if len(passages):
        _, first, which = np.unique(passages, return_index=True, return_inverse=True)
        began, ended = struck[: len(passages)], struck[notes - 1 :]
        back = began - ended[first[which]] > apart_tokens
        np.add.at(inside, began[back], 1)
        np.add.at(inside, ended[back] + 1, -1)
    return np.cumsum(inside[:-1]) > 0


def ages(tokens: NDArray[np.integer], *, notes: int = PASSAGE_NOTES) -> NDArray[np.int64]:
    """How long ago each token's passage was played last, in tokens from the end of that time to its beginning now.

    Passages are those of `returning`; the earlier time may not overlap the later. A token of several passages that
    returned has the smallest of their ages.

    Args:
        tokens: (T,) events of one piece.
        notes: 1 to 9, so that a passage fits 63 bits.

    Returns:
        (T,) ages, `NEVER` outside of what returned.
    """
    struck, passages = _passages(tokens, notes)
    found = np.full(len(tokens), NEVER)
    order = np.argsort(passages, kind="stable")
    before = np.full(len(passages), NEVER)
    alike = passages[order[1:]] == passages[order[:-1]]
    before[order[1:][alike]] = order[:-1][alike]
    age = np.full(len(passages), NEVER)
    for _ in range(notes):  # an earlier time that overlaps is passed over; after so many steps none can
        overlapping = (before >= 0) & (before + notes > np.arange(len(passages)))
        if not overlapping.any():
            break
        before[overlapping] = before[before[overlapping]]
    back = np.flatnonzero(before >= 0)
    age[back] = struck[back] - struck[before[back] + notes - 1]
    for i in back[np.argsort(-age[back], kind="stable")]:  # the smallest last
        found[struck[i] : struck[i + notes - 1] + 1] = age[i]
    return found


def _passages(tokens: NDArray[np.integer], notes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the strikes are, and the number of every passage, in the order of their first strikes."""
    if not 1 <= notes <= 9:
        raise ValueError(f"notes is {notes}; it must lie between 1 and 9")
    tokens = np.asarray(tokens, np.int64)
    struck = np.flatnonzero(tokens < codec.NOTE_OFF)
    if len(struck) < notes:
        return struck, np.zeros(0, np.int64)
    return struck, np.lib.stride_tricks.sliding_window_view(tokens[struck], notes) @ (128 ** np.arange(notes))
