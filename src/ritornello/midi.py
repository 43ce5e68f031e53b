"""MIDI files to pieces and back: formats 0, 1 and 2, tempo maps, SMPTE time, all tracks as one piano.

The parser is this file's own, in numpy, because nothing that a file holds may be lost: common readers drop
notes that are never let go, and tracks that hold only pedal. Each track's bytes get a table of event lengths at once;
only the walk from event to event, and the rare events that are neither note nor controller, are Python.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.notes import MAX_SECONDS, Piece

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

DRUM_CHANNEL = 9
PEDAL = 64  # controller number; a value of 64 or more is down
RESET_CONTROLLERS = 121  # controller number; lifts the pedal
DEFAULT_TEMPO_US = 500_000  # microseconds per quarter note until a file says otherwise
NTSC_FRAMES_PER_S = 30_000 / 1_001  # what SMPTE's "29" stands for
MAX_DELTA_TICKS = 0x0FFFFFFF

# 500 ticks per quarter at 120 quarters per minute: one tick is exactly one millisecond, so every 10 ms step is exact,
# and the division stays below the 960 that sequencers commonly take.
WRITTEN_TICKS_PER_QUARTER = 500
WRITTEN_TICKS_PER_S = 1_000
MELODIC_CHANNELS = [channel for channel in range(16) if channel != DRUM_CHANNEL]


def read_midi(path: str | Path, *, keep_programs: Container[int] | None = None) -> Piece:
    """Reads a MIDI file as one piano piece; a file without notes gives a piece without notes.

    Args:
        path: a standard MIDI file of format 0, 1 or 2 (the patterns of format 2 follow one another).
        keep_programs: MIDI programs (0-127) whose notes and pedal are read; None reads all. Drums never are.

    Raises:
        RitornelloError: if the file cannot be read, or is not MIDI, empty, cut short or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except IsADirectoryError:
        raise RitornelloError(f"{path}: is a folder; give a MIDI file") from None
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return parse_midi(data, str(path), keep_programs=keep_programs)


def parse_midi(data: bytes, name: str, *, keep_programs: Container[int] | None = None) -> Piece:
    """Like `read_midi`, from the file's bytes; ``name`` opens the error messages."""
    try:
        header, chunks = _chunks(data)
        tracks = [_read_track(chunk) for chunk in chunks]
        songs = [[track] for track in tracks] if header.format == 2 else [tracks]
        return _joined([_song(song, header, keep_programs) for song in songs], _title(tracks))
    except _DamageError as damage:
        raise RitornelloError(f"{name}: {damage}") from None


class _DamageError(Exception):
    """What is wrong with a file and what to do, without its name."""


# ---- chunks ----


class _Header(NamedTuple):
    format: int
    division: int


def _chunks(data: bytes) -> tuple[_Header, list[bytes]]:
    """The header and the bytes of every track chunk. Whatever follows the announced tracks may be junk."""
    if not data:
        raise _DamageError("the file is empty; give a MIDI file")
    if data[:4] != b"MThd":
        raise _DamageError("not a MIDI file (it does not begin with MThd); give a .mid file")
    if len(data) < 14:
        raise _DamageError("cut short inside its header; get a complete copy")
    length, midi_format, announced, division = (
        int.from_bytes(data[start:stop], "big") for start, stop in ((4, 8), (8, 10), (10, 12), (12, 14))
    )
    if length < 6 or midi_format > 2:
        raise _DamageError(
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
            raise _DamageError(f"cut short: track {len(chunks) + 1} lacks {missing} bytes; get a complete copy")
        if kind == b"MTrk":
            chunks.append(data[start:position])
    if len(chunks) < announced:
        raise _DamageError(f"cut short: holds {len(chunks)} of the {announced} tracks announced; get a complete copy")
    return _Header(midi_format, division), chunks


# ---- one track ----


@dataclass
class _Track:
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


def _read_track(chunk: bytes) -> _Track:
    """Parses one track chunk. Raises _DamageError where it is no sequence of MIDI events."""
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
        raise _DamageError("damaged: a message's data byte is above 127; get an intact copy")
    track = _Track(tick[plain], status, first, second, int(tick[-1]) if len(tick) else 0, "", [], [])
    for rare in walk.rare:
        _note_down(track, rare, int(tick[rare.event]))
    return track


class _Rare(NamedTuple):
    """An event that is not a channel message with two data bytes."""

    event: int  # its place among the track's events
    status: int
    meta: int  # the type of a meta event, else -1
    content: bytes


def _note_down(track: _Track, rare: _Rare, tick: int) -> None:
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
            raise _DamageError("damaged: a track ends inside an event; get an intact copy")

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
                raise _DamageError("damaged: a track's first event has no status byte; get an intact copy")
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
                raise _DamageError("damaged: a message's data byte is above 127; get an intact copy")
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
        raise _DamageError("damaged: a variable-length number is longer than four bytes; get an intact copy")


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


def _title(tracks: list[_Track]) -> str:
    return next((track.name for track in tracks if track.name), "")


# ---- notes and pedal ----


class _Clock:
    """Ticks to seconds. A division with its top bit set is SMPTE time, which knows no tempo."""

    def __init__(self, division: int, tempos: list[tuple[int, int]]) -> None:
        if division & 0x8000:
            frames_per_s = 256 - (division >> 8)
            ticks_per_s = (NTSC_FRAMES_PER_S if frames_per_s == 29 else frames_per_s) * (division & 0xFF)
            tempos, rate = [], 1 / ticks_per_s if ticks_per_s else 0.0
        else:
            rate = DEFAULT_TEMPO_US / (1e6 * division) if division else 0.0
        if not rate:
            raise _DamageError("damaged header (a division of 0 ticks); get an intact copy")
        tempos = sorted(tempos, key=lambda tempo: tempo[0])
        self.tick = np.array([0] + [tick for tick, _ in tempos], np.int64)
        self.s_per_tick = np.array([rate] + [tempo_us / (1e6 * division) for _, tempo_us in tempos])
        self.s = np.r_[0.0, np.cumsum(np.diff(self.tick) * self.s_per_tick[:-1])]

    def seconds(self, tick: Ints) -> NDArray[np.float64]:
        span = np.searchsorted(self.tick, tick, side="right") - 1
        seconds: NDArray[np.float64] = self.s[span] + (tick - self.tick[span]) * self.s_per_tick[span]
        return seconds


class _Song(NamedTuple):
    """Tracks that play together. ``notes``: (4, N) onset s, offset s, pitch, velocity; ``pedals``: (P, 2) s."""

    notes: NDArray[np.float64]
    pedals: NDArray[np.float64]
    end_s: float


def _song(tracks: list[_Track], header: _Header, keep_programs: Container[int] | None) -> _Song:
    clock = _Clock(header.division, [tempo for track in tracks for tempo in track.tempos])
    end_tick = max((track.end_tick for track in tracks), default=0)
    programs = [change for track in tracks for change in track.programs]
    notes: list[tuple[Ints, ...]] = [(np.zeros(0, np.int64),) * 5]
    spans: list[tuple[Ints, ...]] = [(np.zeros(0, np.int64),) * 3]
    for track in tracks:
        notes.append(_notes(track, end_tick))
        spans.extend(_pedal_spans(track, end_tick))
    channel, on, off, pitch, velocity = (np.concatenate(column) for column in zip(*notes, strict=True))
    kept = _kept(channel, on, programs, keep_programs)
    channels, down, up = (np.concatenate(column) for column in zip(*spans, strict=True))
    pedal = _kept(channels, down, programs, keep_programs)
    return _Song(
        np.stack([clock.seconds(on[kept]), clock.seconds(off[kept]), pitch[kept], velocity[kept]]),
        np.stack([clock.seconds(down[pedal]), clock.seconds(up[pedal])], axis=1),
        float(clock.seconds(np.array([end_tick]))[0]),
    )


def _kept(
    channel: Ints, tick: Ints, programs: list[tuple[int, int, int]], keep_programs: Container[int] | None
) -> NDArray[np.bool_]:
    """(N,) whether each event belongs to the piano: no drums, and only the programs asked for."""
    kept: NDArray[np.bool_] = channel != DRUM_CHANNEL
    if keep_programs is None:
        return kept
    for one in np.unique(channel):
        changes = sorted(
            ((when, program) for when, changed, program in programs if changed == one), key=lambda change: change[0]
        )
        wanted = np.array([0 in keep_programs] + [program in keep_programs for _, program in changes])
        mine = channel == one
        kept[mine] &= wanted[np.searchsorted([when for when, _ in changes], tick[mine], side="right")]
    return kept


def _notes(track: _Track, end_tick: int) -> tuple[Ints, ...]:
    """(channel, on tick, off tick, pitch, velocity) of a track, each (N,).

    A release ends the oldest note that sounds on its key (first in, first out), a release of a silent key is nothing,
    and a note that is never let go lasts to ``end_tick``.
    """
    kind = track.status >> 4
    of_note = np.flatnonzero((kind == 9) | (kind == 8))
    key = (track.status[of_note] & 15).astype(np.uint16) << 7 | track.first[of_note]
    order = np.argsort(key, kind="stable")
    event, key = of_note[order], key[order]
    strikes = (kind[event] == 9) & (track.second[event] > 0)
    releases = ~strikes & _finds_a_note(key, strikes)
    struck, let_go = key[strikes], key[releases]
    rank = np.arange(len(let_go)) - np.searchsorted(let_go, let_go)
    off = np.full(len(struck), end_tick, np.int64)
    off[np.searchsorted(struck, let_go) + rank] = track.tick[event[releases]]
    event = event[strikes]
    return (
        (struck >> 7).astype(np.int64),
        track.tick[event],
        off,
        track.first[event].astype(np.int64),
        track.second[event].astype(np.int64),
    )


def _finds_a_note(key: NDArray[Any], strikes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(E,) for events sorted by key: whether a release here would find its key sounding.

    A key's sum of strikes less releases falls below every earlier value, and below 0, exactly at the idle releases.
    """
    if not len(key):
        return np.zeros(0, bool)
    begins = np.r_[True, key[1:] != key[:-1]]
    first = np.flatnonzero(begins)
    total = np.cumsum(np.where(strikes, 1, -1))
    before = np.r_[0, total[:-1]]
    segment = np.cumsum(begins) - 1
    sounding = total - before[first][segment]
    apart = segment * (2 * len(key) + 2)  # pushes each key's values below those of the key before it
    lowest = np.minimum.accumulate(np.where(begins, np.minimum(sounding, 0), sounding) - apart)
    lowest_before = np.r_[0, lowest[:-1] + apart[:-1]]
    idle: NDArray[np.bool_] = (sounding < 0) & (begins | (sounding < lowest_before))
    return ~idle


def _pedal_spans(track: _Track, end_tick: int) -> list[tuple[Ints, ...]]:
    """For each channel (channel, down tick, up tick), each (P,); a pedal never lifted is held to ``end_tick``."""
    of_pedal = (track.status >> 4 == 0xB) & ((track.first == PEDAL) | (track.first == RESET_CONTROLLERS))
    tick, channels = track.tick[of_pedal], track.status[of_pedal] & 15
    is_down = (track.second[of_pedal] >= 64) & (track.first[of_pedal] == PEDAL)
    spans: list[tuple[Ints, ...]] = []
    for channel in np.unique(channels):
        mine = channels == channel
        down, when = is_down[mine], tick[mine]
        was_down = np.r_[False, down[:-1]]
        pressed, lifted = when[down & ~was_down], when[~down & was_down]
        lifted = np.r_[lifted, np.full(len(pressed) - len(lifted), end_tick, np.int64)]
        spans.append((np.full(len(pressed), channel, np.int64), pressed, lifted))
    return spans


def _joined(songs: list[_Song], title: str) -> Piece:
    """The songs one after the other."""
    begin_s = np.r_[0.0, np.cumsum([song.end_s for song in songs])]
    if begin_s[-1] > MAX_SECONDS:
        raise _DamageError(
            f"lasts {begin_s[-1]:.0f} s; at most {MAX_SECONDS:.0f} s can be read: cut it into shorter files"
        )
    notes, pedals = [np.zeros((4, 0))], [np.zeros((0, 2))]
    for song, begin in zip(songs, begin_s, strict=False):
        notes.append(song.notes + np.array([begin, begin, 0, 0])[:, None])
        pedals.append(song.pedals + begin)
    onset, offset, pitch, velocity = np.concatenate(notes, axis=1)
    return Piece(onset, offset, pitch.astype(np.uint8), velocity.astype(np.uint8), np.concatenate(pedals), title)


# ---- writing ----


def write_midi(piece: Piece, path: str | Path) -> None:
    """Writes a MIDI file of format 0: one piano track, 120 quarters per minute, 1 ms per tick, pedal as controller 64.

    Reading it gives the same piece, every time rounded to 1 ms (a pedal span shorter than that is lost). A note struck
    while an older one of its key is held takes another channel, since a MIDI release cannot say which note it means.

    Raises:
        RitornelloError: if the file cannot be written; an older file of that name is then untouched.
    """
    path = Path(path)
    track = _track_bytes(_events(piece), piece.title)
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, WRITTEN_TICKS_PER_QUARTER)
    making = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        try:
            making.write_bytes(header + b"MTrk" + struct.pack(">I", len(track)) + track)
            making.replace(path)
        finally:
            making.unlink(missing_ok=True)
    except OSError as error:
        raise RitornelloError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


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


def _channels(on: Ints, off: Ints, pitch: Bytes) -> list[int]:
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
    name = title.encode("utf-8")
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
