"""The bytes of a MIDI file to the events of its tracks, in ticks.

Each track's bytes get a table of event lengths at once; only the walk from event to event, and the rare events that
are neither note nor controller, are Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class DamageError(Exception):
    """What is wrong with a file and what to do, without its name."""


class Header(NamedTuple):
    format: int
    division: int


def read_chunks(data: bytes) -> tuple[Header, list[bytes]]:
    """The header and the bytes of every track chunk. Whatever follows the announced tracks may be junk."""
    if not data:
        raise DamageError("the file is empty; give a MIDI file")
    if data[:4] != b"MThd":
        raise DamageError("not a MIDI file (it does not begin with MThd); give a .mid file")
    if len(data) < 14:
        raise DamageError("cut short inside its header; get a complete copy")
    length, midi_format, announced, division = (
        int.from_bytes(data[start:stop], "big") for start, stop in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if length < 6 or midi_format > 2:
        raise DamageError(
            f"damaged header (length {length}, format {midi_format}); only formats 0, 1 and 2 can be read"
        )
    chunks: list[bytes] = []
    position = 8 + length
    while position < len(data):
        kind, size_bytes = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "big")
        start, position = position + 8, position + 8 + size_bytes
        if position > len(data) or start > len(data):
            if len(chunks) >= announced:
                break
            missing = position - len(data)
            raise DamageError(f"cut short: track {len(chunks) + 1} lacks {missing} bytes; get a complete copy")
        if kind == b"MTrk":
            chunks.append(data[start:position])
    if len(chunks) < announced:
        raise DamageError(f"cut short: holds {len(chunks)} of the {announced} tracks announced; get a complete copy")
    return Header(midi_format, division), chunks


@dataclass
class Track:
    """One track's events in file order, in ticks from the track's start.

    tick, status, first, second: (E,) the channel messages with two data bytes, running status filled in.
    """

    tick: Ints
    status: Bytes
    first: Bytes
    second: Bytes
    end_tick: int
    name: str
    tempos: list[tuple[int, int]]  # (tick, microseconds per quarter note)
    programs: list[tuple[int, int, int]]  # (tick, channel, program)


def _event_lengths() -> bytes:
    """For each byte in a status byte's place: the bytes of its event, 0 for the rare events that `_Walk` reads."""
    lengths = bytearray(256)
    lengths[:0x80] = bytes([2]) * 0x80  # running status: two data bytes
    lengths[0x80:0xC0] = bytes([3]) * 0x40
    lengths[0xE0:0xF0] = bytes([3]) * 0x10
    return bytes(lengths)


EVENT_LENGTHS = _event_lengths()
SYSTEM_DATA_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # messages that do not belong in a file, but are found there
TRACK_NAME, END_OF_TRACK, SET_TEMPO = 0x03, 0x2F, 0x51
PADDING = bytes(8)  # longer than any event's fixed part: reading ahead never leaves the array


def read_track(chunk: bytes) -> Track:
    """Parses one track chunk. Raises DamageError where it is no sequence of MIDI events."""
    walk = _Walk(chunk)
    walk.run()
    data = np.frombuffer(chunk + PADDING, np.uint8)
    starts = np.array(walk.starts, np.int64)
    delta_bytes, delta = _deltas(data, starts)
    tick = np.cumsum(delta)
    plain = np.ones(len(starts), bool)
    plain[[rare.event for rare in walk.rare]] = False
    place = (starts + delta_bytes)[plain]
    explicit = data[place] >= 0x80
    latest = np.maximum.accumulate(np.where(explicit, np.arange(len(place)), 0))
    status = data[place[latest]]
    place += explicit
    first, second = data[place], data[place + 1]
    if np.any((first | second) >= 0x80):
        raise DamageError("damaged: a message's data byte is above 127; get an intact copy")
    track = Track(tick[plain], status, first, second, int(tick[-1]) if len(tick) else 0, "", [], [])
    for rare in walk.rare:
        _note_down(track, rare, int(tick[rare.event]))
    return track


class _Rare(NamedTuple):
    """An event that is not a channel message with two data bytes."""

    event: int  # its place among the track's events
    status: int
    meta: int  # the type of a meta event, else -1
    content: bytes


def _note_down(track: Track, rare: _Rare, tick: int) -> None:
    if rare.status >> 4 == 0xC:
        track.programs.append((tick, rare.status & 15, rare.content[0]))
    elif rare.meta == SET_TEMPO and any(rare.content[:3]):  # a tempo of 0 would stop time: the last one stands
        track.tempos.append((tick, int.from_bytes(rare.content[:3], "big")))
    elif rare.meta == TRACK_NAME and not track.name:
        track.name = _text(rare.content)


class _Walk:
    """Finds where each event of a track chunk starts: by table, and event by event where the table does not know."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.padded = chunk + PADDING
        self.starts: list[int] = []
        self.rare: list[_Rare] = []

    def run(self) -> None:
        """Fills ``starts`` (the offset of every event's delta time) and ``rare``."""
        steps, end, append = _steps(self.padded), len(self.chunk), self.starts.append
        place = self._rare_events(0, running=0)
        while place < end:
            step = steps[place]
            if step:
                append(place)
                place += step
            else:
                place = self._rare_events(place, running=None)
        if place > end:
            raise DamageError("damaged: a track ends inside an event; get an intact copy")

    def _rare_events(self, place: int, *, running: int | None) -> int:
        """Reads events from ``place`` on until the table knows the next one; gives that one's place.

        ``running`` is the status that an event without one takes: None for one with two data bytes, 0 for none.
        """
        data, end = self.padded, len(self.chunk)
        while place < end:
            start = place
            _, place = self._number(place)
            status = data[place]
            if status < 0x80 and running == 0:
                raise DamageError("damaged: a track's first event has no status byte; get an intact copy")
            if EVENT_LENGTHS[status] and not (status < 0x80 and running):
                return start
            meta = -1
            if status < 0x80:
                assert running
                status, length = running, 1
            else:
                place += 1
                if status < 0xF0:
                    running, length = status, 1
                elif status == 0xFF:
                    meta = data[place]
                    length, place = self._number(place + 1)
                elif status in (0xF0, 0xF7):
                    length, place = self._number(place)
                else:
                    length = SYSTEM_DATA_BYTES.get(status, 0)
            content = data[place : place + length]
            if status < 0xF0 and content[0] >= 0x80:
                raise DamageError("damaged: a message's data byte is above 127; get an intact copy")
            place += length
            self.rare.append(_Rare(len(self.starts), status, meta, content))
            self.starts.append(start)
            if meta == END_OF_TRACK and place <= end:
                return end
        return place

    def _number(self, place: int) -> tuple[int, int]:
        """A variable-length number and the place behind it."""
        value = 0
        for behind, byte in enumerate(self.padded[place : place + 4], place + 1):
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, behind
        raise DamageError("damaged: a variable-length number is longer than four bytes; get an intact copy")


def _steps(padded: bytes) -> bytes:
    """For each place where a delta time might start: the bytes of delta time and event, or 0 for a rare event."""
    data = np.frombuffer(padded, np.uint8)
    length = np.frombuffer(padded.translate(EVENT_LENGTHS), np.uint8)
    more = data >= 0x80
    steps = np.zeros(len(data), np.uint8)
    longer = np.ones(len(data), bool)
    for size in range(1, 5):
        ends = longer[: len(data) - size] & ~more[size - 1 : len(data) - 1]
        behind = length[size:]
        np.copyto(steps[: len(data) - size], (behind + np.uint8(size)) * (behind > 0), where=ends)
        longer[: len(data) - size] &= more[size - 1 : len(data) - 1]
    return steps.tobytes()


def _deltas(data: Bytes, starts: Ints) -> tuple[Ints, Ints]:
    """The variable-length numbers at ``starts``: (E,) how many bytes each has, (E,) their values."""
    size = np.ones(len(starts), np.int64)
    byte = data[starts]
    value = (byte & 0x7F).astype(np.int64)
    going = np.flatnonzero(byte >= 0x80)
    while len(going):
        byte = data[starts[going] + size[going]]
        value[going] = value[going] << 7 | (byte & 0x7F)
        size[going] += 1
        going = going[byte >= 0x80]
    return size, value


def _text(content: bytes) -> str:
    """Text of a meta event on one line; MIDI names no encoding, so UTF-8 where it fits and Latin-1 elsewhere."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
