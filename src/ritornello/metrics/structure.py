"""Structure by scale: how like itself a piece is, and how much of it its best segment of each length explains.

The fitness of a segment is that of Mueller, Jiang & Grosche, "A robust fitness measure for capturing repetitions in
music recordings" (IEEE Transactions on Audio, Speech, and Language Processing 21, 2013): of all families of segments
that do not overlap, take the one most like it; the fitness is the harmonic mean of how alike they are and of the share
of the piece that they cover, the segment itself taken off both. Simpler than there, a repeat lasts as long as what it
repeats and stays in its key. The highest fitness at a scale is the structureness indicator of Wu & Yang, "The Jazz
Transformer on the Front Line" (ISMIR 2020), read here from notes and as a curve over scales.

F frames of half a second each, from the first onset until the last note falls silent, the pedal applied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ritornello.metrics.registry import Floats, duration_us, feature
from ritornello.notes import Piece

Singles = NDArray[np.float32]
Weights = NDArray[np.int64]
FRAMES_PER_S = 2
MOST_FRAMES = 3600
SMOOTHED_FRAMES = 4
ALIKE_SHARE = 0.2
UNLIKE = -2.0
COUNTS = 2**12  # more than there are frames
ONE = 2**20 * COUNTS  # a weight of 1, in whole numbers that leave room for a count
DURATIONS_S = (4, 6, 8, 11, 15, 21, 30, 42, 60)


def self_similarity(piece: Piece) -> Singles:
    """(F, F) cosine similarity, 0 to 1, between the frames' chroma: how long each pitch class sounds, over 4 frames.

    A silent frame is given all pitch classes alike, so that silence is like silence. Only the first half hour of a
    piece is looked at, for the matrix grows with the square. (0, 0) for a piece without duration.
    """
    chroma = _chroma(piece)
    if len(chroma):
        summed = np.cumsum(np.r_[np.zeros((1, 12)), chroma], axis=0)
        first = np.maximum(np.arange(len(chroma)) - SMOOTHED_FRAMES // 2, 0)
        last = np.minimum(first + SMOOTHED_FRAMES, len(chroma))
        chroma = summed[last] - summed[first]
    chroma[chroma.sum(axis=1) < 1e-6] = 1.0
    chroma /= np.linalg.norm(chroma, axis=1, keepdims=True)
    return (chroma @ chroma.T).astype(np.float32)


@feature("structure_curve", "structure", "fitness", "what its best segment explains")
def structure_curve(piece: Piece) -> Floats:
    """(9,) highest fitness, 0 to 1, of any segment that lasts each of `DURATIONS_S`; see the head of this file.

    The fifth of the similarities that are highest count from 0 to 1, all others -2. 0 at scales of which a piece does
    not hold two segments, and for a piece without duration.
    """
    similarity = self_similarity(piece)
    frames = len(similarity)
    curve = np.zeros(len(DURATIONS_S))
    if not frames:
        return curve
    along = _summed_diagonals(_weighed(similarity))
    for scale, duration_s in enumerate(DURATIONS_S):
        if 2 * duration_s * FRAMES_PER_S <= frames:
            curve[scale] = _highest_fitness(along, duration_s * FRAMES_PER_S)
    return curve


def _chroma(piece: Piece) -> Floats:
    """(F, 12) frames for which each pitch class sounds in each frame, chords of octaves counted apiece."""
    frames = min(-(-duration_us(piece) * FRAMES_PER_S // 1_000_000), MOST_FRAMES)
    rate = np.zeros((frames + 2) * 12)
    if not frames:
        return np.zeros((0, 12))
    for times, sign in ((piece.onset, 1), (piece.sounding_offset(), -1)):
        time = np.minimum((times - piece.onset[0]) * FRAMES_PER_S, frames)
        frame = time.astype(np.int64)
        into = time - frame
        place = frame * 12 + piece.pitch % 12
        rate += sign * np.bincount(place, weights=1 - into, minlength=len(rate))
        rate += sign * np.bincount(place + 12, weights=into, minlength=len(rate))
    return np.cumsum(rate.reshape(-1, 12), axis=0)[:frames]


def _weighed(similarity: Singles) -> Weights:
    """(F, F) similarities as weights: the highest `ALIKE_SHARE` of them from 0 to 1, all others `UNLIKE`.

    In units of 1 / `ONE`, and every weight 1 more: so the lowest bits of a sum count the frames in it.
    """
    place = int((1 - ALIKE_SHARE) * (similarity.size - 1))
    least = min(float(np.partition(similarity, place, axis=None)[place]), 1 - 1e-3)  # a monotone piece is all alike
    weights = np.where(similarity < least, np.float32(UNLIKE), (similarity - least) / np.float32(1 - least))
    return np.rint(weights * (ONE // COUNTS)).astype(np.int64) * COUNTS + 1


def _summed_diagonals(weights: Weights) -> Weights:
    """(F + 1, F + 1) sums of ``weights`` along each diagonal, up to and without each entry."""
    along = np.zeros((len(weights) + 1, len(weights) + 1), np.int64)
    for i, row in enumerate(weights):
        np.add(along[i, :-1], row, out=along[i + 1, 1:])
    return along


def _highest_fitness(along: Weights, length: int) -> float:
    """The highest fitness of any segment of ``length`` frames: for all at once, the best family so far, frame by frame.

    A family is one number, its weight and the count of its frames (see `_weighed`): one maximum chooses both.
    """
    frames = len(along) - 1
    starts = frames - length + 1
    families = np.zeros((length, starts), np.int64)  # a ring: the best that end by each of the last ``length`` frames
    best = np.zeros(starts, np.int64)
    longer = np.empty(starts, np.int64)
    for end in range(length, frames + 1):
        family = families[end % length]
        np.subtract(along[end, length:], along[end - length, :starts], out=longer)
        longer += family
        np.maximum(best, longer, out=best)
        family[:] = best
    count = best % COUNTS
    alike = ((best - count) / ONE - length) / count
    covered = (count - length) / frames
    total = alike + covered
    return float(np.max(2 * alike * covered / np.where(total > 0, total, 1)))
