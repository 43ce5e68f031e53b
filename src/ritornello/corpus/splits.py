"""Which pieces are held out: what belongs together stays together, and no copy of what is held out is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.corpus.shards import SPLITS, UNDECIDED, PieceRecord, Records, Tokens
from ritornello.corpus.takes import Groups, join_takes, runs, sampled

HELD_OUT_SHARE = 0.1  # of the pieces, for validation and again for test, where the source names no splits
TRAIN, VALIDATION, TEST = range(3)

Splits = NDArray[np.uint8]  # (N,) places in SPLITS


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

    Args:
        records: (N,) all pieces.
        tokens: those of a piece.
        seed: of the choice.
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
