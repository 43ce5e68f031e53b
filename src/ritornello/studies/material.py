"""Which tokens of a piece belong to material that has returned: what a long memory could help to foresee."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ritornello import codec

PASSAGE_NOTES = 8
APART_TOKENS = 2000


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
    if not 1 <= notes <= 9:
        raise ValueError(f"notes is {notes}; it must lie between 1 and 9")
    tokens = np.asarray(tokens, np.int64)
    struck = np.flatnonzero(tokens < codec.NOTE_OFF)
    inside = np.zeros(len(tokens) + 1, np.int64)
    if len(struck) >= notes:
        windows = np.lib.stride_tricks.sliding_window_view(tokens[struck], notes)
        passages = windows @ (128 ** np.arange(notes))
        _, first, which = np.unique(passages, return_index=True, return_inverse=True)
        began, ended = struck[: len(passages)], struck[notes - 1 :]
        back = began - ended[first[which]] > apart_tokens
        np.add.at(inside, began[back], 1)
        np.add.at(inside, ended[back] + 1, -1)
    return np.cumsum(inside[:-1]) > 0
