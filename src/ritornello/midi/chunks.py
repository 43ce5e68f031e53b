"""A MIDI file's wrapping, header and chunks, mended where they do not fit together."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from contextlib import suppress
from io import BytesIO

from ritornello.midi.tracks import DamageError, Walk

MAX_BYTES = 8 * 2**20  # seventeen hours of playing; bounds what a hostile file can cost
END_OF_TRACK_BYTES = b"\0\xff\x2f\0"
OF_MIDI = re.compile(b"MTrk|MThd")


def read_chunks(data: bytes, mended: Counter[str]) -> tuple[int, int, Walk]:
    """(format, division, the walk through all tracks). Counts in ``mended`` what did not fit. Raises DamageError."""
    data = _unwrapped(data)
    midi_format, announced, division, place = _header(data, mended)
    walk = Walk(data, mended)
    while place < len(data):
        kind, stop = data[place : place + 4], place + 8 + _size(data, place)
        if kind == b"MThd":
            mended["bytes of another file behind this one, left out"] += len(data) - place
            break
        if kind == b"MTrk":
            try:
                place = _track(walk, data, place + 8, stop)
            except DamageError:
                if len(walk.tracks) < announced:
                    raise
                mended["bytes behind the last track, left out"] += len(data) - place
                break
        elif _begins_chunk(data, place):  # of a kind that holds no music
            place = stop
        else:
            following = _next_of_midi(data, place)
            if any(data[place:following]):
                mended["bytes outside of chunks, left out"] += following - place
            place = following
    if len(walk.tracks) < announced:
        there = len(walk.tracks)
        raise DamageError(f"cut short: holds {there} of the {announced} tracks announced; get a complete copy")
    return midi_format, division, walk


def _unwrapped(data: bytes) -> bytes:
    """The MIDI file in ``data``, which may be compressed (gzip) or in a RIFF file."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.GzipFile(fileobj=BytesIO(data)).read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error):
            raise DamageError("compressed, and cut short or damaged; get an intact copy") from None
    if len(data) > MAX_BYTES:
        raise DamageError(f"larger than {MAX_BYTES >> 20} MiB, the most that is read; cut it into shorter files")
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        place = 12
        while data[place : place + 4] not in (b"data", b""):
            size = int.from_bytes(data[place + 4 : place + 8], "little")
            place += 8 + size + size % 2
        data = data[place + 8 : place + 8 + int.from_bytes(data[place + 4 : place + 8], "little")]
    return data


def _header(data: bytes, mended: Counter[str]) -> tuple[int, int, int, int]:
    """(format, tracks announced, division, where the header ends)."""
    if not data:
        raise DamageError("the file is empty; give a MIDI file")
    if data[:4] != b"MThd":
        raise DamageError("not a MIDI file (it does not begin with MThd); give a .mid file")
    if len(data) < 14:
        raise DamageError("cut short inside its header; get a complete copy")
    length = _size(data, 0)
    midi_format, announced, division = (int.from_bytes(data[place : place + 2], "big") for place in (8, 10, 12))
    if length < 6 or midi_format > 2:
        raise DamageError(
            f"damaged header (length {length}, format {midi_format}); only formats 0, 1 and 2 can be read"
        )
    if length > 6 and not _begins_chunk(data, 8 + length):
        mended["header of a wrong length"] += 1
        length = 6
    return midi_format, announced, division, 8 + length


def _track(walk: Walk, data: bytes, start: int, stop: int) -> int:
    """Reads the track from ``start``; gives the place behind it.

    Its length is believed where an End of Track stands before ``stop``, or another chunk or nothing behind. Otherwise
    the track goes on to its End of Track, or without one to whatever chunk comes next.
    """
    number = len(walk.tracks) + 1
    if start > len(data):
        raise DamageError(f"cut short where track {number} begins; get a complete copy")
    missing = stop - len(data)
    fits = _begins_chunk(data, stop)
    limit = stop if fits else _next_of_midi(data, start)
    if 0 < missing <= len(END_OF_TRACK_BYTES) and limit == len(data):
        if walk.read_completed(start, END_OF_TRACK_BYTES[-missing:]):
            return limit
    elif not fits and stop <= limit:
        with suppress(DamageError):
            return walk.read(start, stop, whole=True)
    try:
        end = walk.read(start, limit, whole=missing > 0)
    except DamageError:
        if missing <= 0:
            raise
        raise DamageError(f"cut short: track {number} lacks {missing} bytes; get a complete copy") from None
    if fits and data[end : end + 4] != b"MTrk":
        if any(data[end:stop]):
            walk.mended["bytes behind an End of Track, left out"] += stop - end
        return stop
    walk.mended["tracks of a wrong length"] += end != stop
    return end


def _size(data: bytes, place: int) -> int:
    """The length that the chunk at ``place`` tells of itself, in bytes."""
    return int.from_bytes(data[place + 4 : place + 8], "big")


def _begins_chunk(data: bytes, place: int) -> bool:
    """Whether a chunk begins at ``place``, or nothing at all."""
    kind = data[place : place + 4]
    if OF_MIDI.match(kind):
        return True
    return place == len(data) or (kind.isalnum() and place + 8 + _size(data, place) <= len(data))


def _next_of_midi(data: bytes, place: int) -> int:
    match = OF_MIDI.search(data, place)
    return match.start() if match else len(data)
