"""Which pieces are held out: what belongs together stays together, and no copy of what is held out is trained on.

Takes of the same music are found by what they play, by shared runs: seven notes in the order of their strikes. A run's
shape is its six intervals, so that a take in another key has the same shapes, all moved by one number of semitones. Two
pieces are taken for the same music if, moved by one number, they share `LEAST_SHARED` of the shorter one's runs, and
`LEAST_RUNS` in all. Only runs that vary count: trills, repeated notes and scales are everywhere.

Not every piece is compared with every other. One in `SAMPLED` runs is listed, chosen by its shape alone (as FracMinHash
does for genomes: Irber et al., bioRxiv 2022.01.11.475838). Neighbours in a shape's list are candidates, and two pieces
that are so often, by one number of semitones, are compared in full, or joined at once where it is very often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import NOTE_OFF
from ritornello.corpus.shards import SPLITS, UNDECIDED, PieceRecord, Records, Tokens

HELD_OUT_SHARE = 0.1  # of the pieces, for validation and again for test, where the source names no splits
TRAIN, VALIDATION, TEST = range(3)

Splits = NDArray[np.uint8]  # (N,) places in SPLITS
RUN_NOTES = 7
LEAST_PITCHES = 4  # in a run that varies
LEAST_SHARED = 0.012  # on 652 piano rolls against 72 titles all pairs above were the same music, and none below 0.01
LEAST_RUNS = 32
SAMPLED = 8
NEIGHBOURS = 4  # candidates for a piece are those up to so many behind it in a shape's list
POSSIBLE, CERTAIN = 0.5, 4.0  # the shared runs that the lists let expect, by those that are needed
PIECE_BITS, PITCH_BITS = 24, 7
MASK = 2**PIECE_BITS - 1
MIXER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4)
BLOCK = 2**22  # entries of the lists that are worked on at a time

Keys = NDArray[np.uint64]


class Decision(NamedTuple):
    """The split of each piece, (N,); which pieces are kept, (N,); what was found (`Corpus.report`)."""

    split: Splits
    keep: NDArray[np.bool_]
    report: dict[str, list[Any]]


def decide(records: Records, tokens: Callable[[PieceRecord], Tokens], seed: int) -> Decision:
    """Decides about splits, and which copies are left out.

    Where the source named no splits the seed chooses them, a group at a time: pieces of one composer and title, and
    takes of the same music. Of pieces equal token for token, those in train are left out if another split has one.
    Takes in splits that the source named stay where they are, and are told.
    """
    digests, entries = np.zeros(len(records), np.uint64), bytearray()
    for number, record in enumerate(records):
        digests[number] = int.from_bytes(hashlib.sha256(tokens(record).data).digest()[:8], "little")
        entries += sampled(runs(tokens(record)), number).tobytes()
    split, is_open = records.rows["split"].copy(), bool((records.rows["split"] == UNDECIDED).any())
    groups = Groups(len(records))
    copies = _alike(digests)
    together = copies + (_alike(np.array(list(map(_title_hash, records, range(len(records)))))) if is_open else [])
    for alike in together:
        for member in alike[1:]:
            groups.join(alike[0], member)
    joined = join_takes(groups, np.frombuffer(entries, np.uint64), lambda number: tokens(records[number]))
    firsts = groups.firsts()
    if is_open:
        split = _chosen(firsts, [record.file for record in records], seed)
    keep, duplicates = np.ones(len(records), bool), []
    for alike in copies:
        leaks = [member for member in alike if split[member] == TRAIN and (split[alike] != TRAIN).any()]
        keep[leaks] = False
        duplicates.append({**_told(records, split, alike), "left_out": [records[member].file for member in leaks]})
    of_takes = {int(firsts[one]) for one, _ in joined}
    takes = [alike for alike in _alike(firsts) if firsts[alike[0]] in of_takes]
    takes = [alike for alike in takes if is_open or len(set(split[alike].tolist())) > 1]
    return Decision(split, keep, {"duplicates": duplicates, "takes": [_told(records, split, alike) for alike in takes]})


def _alike(values: NDArray[Any]) -> list[list[int]]:
    """The places of equal values, where there are two or more."""
    order = np.argsort(values, kind="stable")
    begins = np.flatnonzero(values[order][1:] != values[order][:-1]) + 1
    return sorted(group.tolist() for group in np.split(order, begins) if len(group) > 1)


def _title_hash(record: PieceRecord, number: int) -> int:
    """Equal for pieces of one composer and title; a piece without a title is alone."""
    names = (" ".join(name.casefold().split()) for name in (record.composer, record.title))
    return hash(tuple(names)) if record.title else number


def _told(records: Records, split: Splits, members: list[int]) -> dict[str, list[str]]:
    return {
        "files": [records[member].file for member in members],
        "splits": [SPLITS[split[member]] for member in members],
    }


def _chosen(firsts: NDArray[np.int64], files: list[str], seed: int) -> Splits:
    """The seed's choice from groups, which are told by the first of each: held out whole, and no more than wanted."""
    groups = list(dict.fromkeys(firsts[sorted(range(len(files)), key=files.__getitem__)].tolist()))
    sizes = np.bincount(firsts)
    waiting = [groups[place] for place in np.random.default_rng(seed).permutation(len(groups))[::-1]]
    split_of = np.full(len(firsts), TRAIN, np.uint8)
    for split, least_groups in ((TEST, 3), (VALIDATION, 2)):
        room, held_out = max(1, round(HELD_OUT_SHARE * len(firsts))), []
        for group in waiting:
            if sizes[group] <= room:
                held_out.append(group)
                room -= sizes[group]
        if len(groups) >= least_groups:
            split_of[held_out or [min(waiting, key=lambda group: sizes[group])]] = split
        waiting = [group for group in waiting if split_of[group] == TRAIN]
    return split_of[firsts]


class Groups:
    """Numbers 0 to n - 1 in groups that are joined two by two."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def first(self, member: int) -> int:
        parent = self._parent
        while parent[member] != member:
            parent[member] = member = parent[parent[member]]
        return member

    def join(self, first: int, second: int) -> None:
        first, second = sorted((self.first(first), self.first(second)))
        self._parent[second] = first

    def firsts(self) -> NDArray[np.int64]:
        return np.array([self.first(member) for member in range(len(self._parent))], np.int64)


def runs(tokens: Tokens) -> Keys:
    """(R,) the distinct runs that vary, sorted: a hash of the shape, and in the lowest 7 bits the first pitch."""
    pitch = tokens[tokens < NOTE_OFF].astype(np.int64)
    if len(pitch) < RUN_NOTES:
        return np.zeros(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(pitch, RUN_NOTES)
    steps = np.lib.stride_tricks.sliding_window_view(np.diff(pitch), RUN_NOTES - 1)
    kinds = 1 + np.count_nonzero(np.diff(np.sort(windows, axis=1), axis=1), axis=1)
    is_scale = (steps > 0).all(axis=1) | (steps < 0).all(axis=1)
    varies = np.flatnonzero((kinds >= LEAST_PITCHES) & ~is_scale)
    shape = np.zeros(len(varies), np.uint64)
    for step in range(RUN_NOTES - 1):
        shape = (shape ^ steps[varies, step].astype(np.uint64)) * MIXER
        shape ^= shape >> np.uint64(29)
    return np.unique(shape >> np.uint64(PITCH_BITS) << np.uint64(PITCH_BITS) | pitch[varies].astype(np.uint64))


def sampled(keys: Keys, piece: int) -> Keys:
    """Entries of the lists of shapes: 33 bits of a shape, the piece, the pitch."""
    chosen = keys[: np.searchsorted(keys, np.uint64(2**64 // SAMPLED))]
    low = PIECE_BITS + PITCH_BITS
    shape = chosen >> np.uint64(64 - SAMPLED.bit_length() + 1 - (64 - low))
    return shape << np.uint64(low) | np.uint64(piece << PITCH_BITS) | chosen & np.uint64(2**PITCH_BITS - 1)


def candidates(entries: Keys) -> tuple[NDArray[Any], ...]:
    """Pairs of pieces that may be takes, the likeliest first: first, second, semitones between them, whether certain.

    Args:
        entries: (E,) of all pieces (`sampled`); sorted in place.
    """
    entries.sort()
    pairs, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for ahead in range(1, NEIGHBOURS + 1):
        for begin in range(0, len(entries) - ahead, BLOCK):
            second = entries[begin + ahead : begin + ahead + BLOCK]
            shared = _pairs(entries[begin : begin + len(second)], second)
            pairs, place = np.unique(np.append(pairs, shared), return_inverse=True)
            counts = np.bincount(place, np.append(counts, np.ones(len(shared)))).astype(np.int64)
    pairs, counts = pairs[counts > 1], counts[counts > 1]
    first, second, semitones = pairs >> (PIECE_BITS + 8), pairs >> 8 & MASK, (pairs & 255) - 128
    listed = np.bincount((entries >> np.uint64(PITCH_BITS)).astype(np.int64) & MASK)
    worth = counts / np.maximum(LEAST_RUNS / SAMPLED, LEAST_SHARED * np.minimum(listed[first], listed[second]))
    order = np.argsort(-worth, kind="stable")
    order = order[: np.count_nonzero(worth >= POSSIBLE)]
    return first[order], second[order], semitones[order], worth[order] >= CERTAIN


def _pairs(first: Keys, second: Keys) -> NDArray[np.int64]:
    """The two pieces and their distance of all entries of the same shape."""
    same = np.flatnonzero((first ^ second) >> np.uint64(PIECE_BITS + PITCH_BITS) == 0)
    low = [side[same].astype(np.int64) & (2 ** (PIECE_BITS + PITCH_BITS) - 1) for side in (first, second)]
    (one, here), (other, there) = (np.divmod(side, 2**PITCH_BITS) for side in low)
    apart = one != other
    pair: NDArray[np.int64] = ((one << PIECE_BITS | other) << 8 | (there - here + 128))[apart]
    return pair


def are_takes(first: Keys, second: Keys, semitones: int) -> bool:
    """Whether enough runs of ``first``, moved by ``semitones``, are runs of ``second``."""
    moved = first + np.uint64(semitones) if semitones >= 0 else first - np.uint64(-semitones)
    shared = len(np.intersect1d(moved, second, assume_unique=True))
    return shared >= max(LEAST_RUNS, LEAST_SHARED * min(len(first), len(second)))


def join_takes(groups: Groups, entries: Keys, tokens: Callable[[int], Tokens]) -> list[tuple[int, int]]:
    """Joins the groups of pieces that are the same music; gives the pairs that joined them."""
    joined = []
    for first, second, semitones, is_certain in zip(*(column.tolist() for column in candidates(entries))):
        if groups.first(first) != groups.first(second) and (
            is_certain or are_takes(runs(tokens(first)), runs(tokens(second)), semitones)
        ):
            groups.join(first, second)
            joined.append((first, second))
    return joined
