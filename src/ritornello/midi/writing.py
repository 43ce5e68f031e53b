"""Pieces to MIDI files that any sequencer opens."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ritornello.files import whole_file
from ritornello.midi.reading import DEFAULT_TEMPO_US
from ritornello.midi.tracks import DRUM_CHANNEL, Ints
from ritornello.notes import Piece

MAX_DELTA_TICKS = 0x0FFFFFFF
PEDAL = 64  # controller number

# 500 ticks per quarter at 120 quarters per minute: one tick is exactly one millisecond, so every 10 ms step is exact,
# and the division stays below the 960 that sequencers commonly take.
WRITTEN_TICKS_PER_QUARTER = 500
WRITTEN_TICKS_PER_S = 1_000
MELODIC_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]


def write_midi(piece: Piece, path: str | Path) -> None:
    """Writes a MIDI file of format 0: one piano track, 120 quarters per minute, 1 ms per tick, pedal as controller 64.

    Reading it gives the same piece, every time rounded to 1 ms (a pedal span shorter than that is lost). A note struck
    while an older one of its key is held takes another channel, since a MIDI release cannot say which note it means.

    Raises:
        RitornelloError: if the file cannot be written; an older file of that name is then untouched.
    """
    track = _track_bytes(_events(piece), piece.title)
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, WRITTEN_TICKS_PER_QUARTER)
    with whole_file(path) as file:
        file.write(header + b"MTrk" + struct.pack(">I", len(track)) + track)


def _events(piece: Piece) -> list[tuple[int, int, bytes]]:
    """(tick, rank, message) in playing order. Within a tick: pedal, releases, strikes.

    The pedal goes first because its span holds what is released at its very beginning. A note that lasts no tick is
    struck after the releases and released before the strikes.
    """
    on, off = _ticks(piece.onset), _ticks(piece.offset)
    channel = _channels(on, off, piece.pitch)
    events: list[tuple[int, int, bytes]] = []
    for used in sorted(set(channel) | {0}):
        events.append((0, 0, bytes([0xC0 | used, 0])))
        for down, up in _ticks(piece.pedals).tolist():
            if up > down:
                events.append((down, 2, bytes([0xB0 | used, PEDAL, 127])))
                events.append((up, 1, bytes([0xB0 | used, PEDAL, 0])))
    columns = (on.tolist(), off.tolist(), channel, piece.pitch.tolist(), piece.velocity.tolist())
    for start, end, used, pitch, velocity in zip(*columns, strict=True):
        events.append((start, 6 if end > start else 4, bytes([0x90 | used, pitch, velocity])))
        events.append((end, 3 if end > start else 5, bytes([0x80 | used, pitch, 0])))
    return sorted(events, key=lambda event: event[:2])


def _ticks(seconds: NDArray[np.float64]) -> Ints:
    return np.rint(seconds * WRITTEN_TICKS_PER_S).astype(np.int64)


def _channels(on: Ints, off: Ints, pitch: NDArray[np.integer]) -> list[int]:
    """(N,) a channel for each note, so that no two notes of a key overlap in one: the first that is free.

    With more notes at once on a key than there are channels, the last channel takes the rest.
    """
    channel = [0] * len(on)
    ends: dict[int, list[int]] = {}  # for each key, when it falls silent in each of MELODIC_CHANNELS
    columns = (on.tolist(), off.tolist(), pitch.tolist())
    for note in np.lexsort((off, pitch, on)).tolist():
        start, end, key = (column[note] for column in columns)
        silent = ends.setdefault(key, [0] * len(MELODIC_CHANNELS))
        place = next((place for place, last in enumerate(silent) if last <= start), len(silent) - 1)
        silent[place] = max(end, silent[place])
        channel[note] = MELODIC_CHANNELS[place]
    return channel


def _track_bytes(events: list[tuple[int, int, bytes]], title: str) -> bytes:
    name = title.encode("utf-8", "replace")
    parts = [b"\0\xff\x03", _number_bytes(len(name)), name]
    parts += [b"\0\xff\x51\x03", DEFAULT_TEMPO_US.to_bytes(3, "big")]
    now = 0
    for tick, _, message in events:
        while tick - now > MAX_DELTA_TICKS:
            parts.append(_number_bytes(MAX_DELTA_TICKS) + b"\xff\x01\0")  # an empty text bridges the gap
            now += MAX_DELTA_TICKS
        parts.append(_number_bytes(tick - now) + message)
        now = tick
    parts.append(b"\0\xff\x2f\0")
    return b"".join(parts)


def _number_bytes(number: int) -> bytes:
    """MIDI's variable-length form of a number."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))
