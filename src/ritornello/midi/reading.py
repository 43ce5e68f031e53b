"""MIDI files to pieces: formats 0, 1 and 2, tempo maps, SMPTE time, all tracks as one piano.

Keys and pedals belong to a channel, in whatever tracks its messages stand: all are put in one order, by their time and
by where they stand in the file. The patterns of a format 2 file follow one another, each a song of its own.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.midi.keys import played
from ritornello.midi.tracks import DamageError, Events, Ints, Walk
from ritornello.notes import MAX_SECONDS, Piece

DEFAULT_TEMPO_US = 500_000  # microseconds per quarter note until a file says otherwise
FRAMES_PER_S = {24: 24.0, 25: 25.0, 29: 30_000 / 1_001, 30: 30.0}  # SMPTE's, by the numbers that stand for them
MAX_BYTES = 8 * 2**20  # seventeen hours of playing; bounds what a hostile file can cost
END_OF_TRACK_BYTES = b"\0\xff\x2f\0"
OF_MIDI = re.compile(b"MTrk|MThd")


def read_midi(path: str | Path, *, keep_programs: Container[int] | None = None) -> Piece:
    """Reads a MIDI file as one piano piece; a file without notes gives a piece without notes.

    Args:
        path: a standard MIDI file of format 0, 1 or 2 (the patterns of format 2 follow one another), perhaps compressed
            by gzip or in a RIFF file.
        keep_programs: MIDI programs (0-127) whose notes and pedal are read; None reads all. Drums never are.

    Returns:
        The piece; ``mended`` tells what did not fit in the file and was read, or left out, anyway.

    Raises:
        RitornelloError: if the file cannot be read, or is not MIDI, empty, too large, cut short or damaged.
    """
    try:
        # Memory given back by a program is kept for it up to the size of the largest block that it gave back. After one
        # of this size, what one file needed serves the next, instead of being fetched anew for a quarter of the time.
        buffer = memoryview(np.empty(MAX_BYTES + 1, np.uint8))  # type: ignore[arg-type]
        with Path(path).open("rb") as file:
            data = bytes(buffer[: file.readinto(buffer)])
    except IsADirectoryError:
        raise RitornelloError(f"{path}: is a folder; give a MIDI file") from None
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return parse_midi(data, str(path), keep_programs=keep_programs)


def parse_midi(data: bytes, name: str, *, keep_programs: Container[int] | None = None) -> Piece:
    """Like `read_midi`, from the file's bytes; ``name`` opens the error messages."""
    mended: Counter[str] = Counter()
    try:
        midi_format, division, walk = read_chunks(data, mended)
        events = walk.events(in_turn=midi_format == 2)
        return _piece(_in_order(events), division, keep_programs, walk.title, mended)
    except DamageError as damage:
        raise RitornelloError(f"{name}: {damage}") from None


def _in_order(events: Events) -> Events:
    """The events of all tracks in playing order; at equal ticks, in the file's."""
    tick = events.tick
    if np.all(tick[1:] >= tick[:-1]):
        return events
    order = np.argsort(tick, kind="stable")
    return events._replace(
        tick=tick[order], moved=events.moved[order], down=events.down[order], value=events.value[order]
    )


def _piece(
    events: Events, division: int, keep_programs: Container[int] | None, title: str, mended: Counter[str]
) -> Piece:
    strike, on, off, press, down, up = played(events, mended)
    if keep_programs is not None:
        kept = _kept(events, strike, keep_programs)
        strike, on, off = strike[kept], on[kept], off[kept]
        kept = _kept(events, press, keep_programs)
        down, up = down[kept], up[kept]
    order = np.argsort(on << 7 | events.moved[strike] & 127, kind="stable")  # nearly as the piece wants: faster here
    strike, on, off = strike[order], on[order], off[order]
    seconds = _Clock(division, events, mended).seconds(np.concatenate([on, off, down, up]))
    end_s = seconds.max(initial=0.0)
    if end_s > MAX_SECONDS:
        raise DamageError(f"lasts {end_s:.0f} s; at most {MAX_SECONDS:.0f} s can be read: cut it into shorter files")
    onset, offset = seconds[: 2 * len(on)].reshape(2, -1)
    pedals = seconds[2 * len(on) :].reshape(2, -1).T
    counts = tuple(sorted((+mended).items()))
    return Piece(onset, offset, events.moved[strike] & 127, events.value[strike], pedals, title, counts)


def _kept(events: Events, event: Ints, keep_programs: Container[int]) -> NDArray[np.bool_]:
    """(N,) whether each event has a program that is kept: its voice's latest, those of its tick included."""
    tick, voice, program = events.programs[:, np.argsort(events.programs[0], kind="stable")]
    count = len(events.tick) + 1
    changes = voice * count + np.searchsorted(events.tick, tick)  # from which event on, voice after voice
    order = np.argsort(changes, kind="stable")
    latest = np.searchsorted(changes[order], events.voice(event) * count + event, side="right") - 1
    program = np.append(program[order], 0)[latest]
    program[np.append(voice[order], -1)[latest] != events.voice(event)] = 0
    return np.array([number in keep_programs for number in range(128)])[program]


class _Clock:
    """Ticks to seconds. A division with its top bit set is SMPTE time, which knows no tempo."""

    def __init__(self, division: int, events: Events, mended: Counter[str]) -> None:
        frames_per_s = FRAMES_PER_S.get(256 - (division >> 8)) if division & 0x8000 else None
        if not division or (frames_per_s and not division & 0xFF):
            raise DamageError("damaged header (a division of 0 ticks); get an intact copy")
        if frames_per_s:
            self.tick, self.s_per_tick = np.zeros(1, np.int64), np.array([1 / (frames_per_s * (division & 0xFF))])
        else:
            mended["SMPTE rate that does not exist, taken as ticks per quarter note"] += division >> 15
            tick, song, tempo_us = events.tempos
            songs = len(events.begin)
            tick = np.append(events.begin, tick)
            order = np.lexsort((tick, np.append(np.arange(songs), song)))
            tempo_us = np.append(np.full(songs, DEFAULT_TEMPO_US), tempo_us)
            self.tick, self.s_per_tick = tick[order], tempo_us[order] / (1e6 * division)
        self.s = np.append(0.0, np.cumsum(np.diff(self.tick) * self.s_per_tick[:-1]))

    def seconds(self, tick: Ints) -> NDArray[np.float64]:
        span = np.searchsorted(self.tick, tick, side="right") - 1
        seconds: NDArray[np.float64] = self.s[span] + (tick - self.tick[span]) * self.s_per_tick[span]
        return seconds


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
