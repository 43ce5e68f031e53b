"""The bytes of MIDI tracks to their events, in ticks.

Where the next event begins depends on all before it. So a table tells, for every byte at once, where the next event and
the eighth after it would begin if one began there; the walk takes eight events at a step, and only events that are
neither notes nor controllers are read one by one.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]

DRUM_CHANNEL = 9
TRACK_NAME, END_OF_TRACK, SET_TEMPO = 0x03, 0x2F, 0x51
SYSTEM_DATA_BYTES = {0xF1: 1, 0xF2: 2, 0xF3: 1}  # messages that do not belong in a file, but are found there
HIGH_BYTES = "data bytes above 127, clipped or left out"
PADDING = bytes(16)  # reading ahead never leaves the data
TABLED_DELTA_BYTES = 2  # longer delta times are too rare to be worth it
TABLED_BYTES = TABLED_DELTA_BYTES + 3  # of delta time and event together


class DamageError(Exception):
    """What is wrong with a file and what to do, without its name."""


class Moved(IntEnum):
    """What an event moves. As `Events.moved`, times the number of voices and 128."""

    KEY = 0
    PEDAL = 1
    SOUND_OFF = 2  # lets go of all keys, and of what the pedal holds
    NOTES_OFF = 3  # lets go of all keys
    SOSTENUTO = 4
    DRUM = 5
    NOTHING = 6  # that is of interest


class Events(NamedTuple):
    """What tracks hold of keys, pedals and time, in the file's order. Ticks count from the beginning of all.

    A song is what is played at once: all tracks, or each in turn. A voice is a channel of a song, 16 x song + channel.

    tick: (E,) of each event.
    moved: (E,) what it moves: (`Moved` x voices + voice) x 128, plus the pitch of a key.
    down: (E,) whether down: a strike, or a pedal pressed.
    value: (E,) of strikes, the velocity.
    begin: (S,) the tick at which each song begins.
    tempos: (3, .) tick, song, microseconds per quarter note. programs: (3, .) tick, voice, program.
    """

    tick: Ints
    moved: NDArray[np.integer[Any]]
    down: Bools
    value: Bytes
    begin: Ints
    tempos: Ints
    programs: Ints

    def voice(self, event: Ints) -> Ints:
        """(N,) the voice of each event."""
        voice: Ints = (self.moved[event] >> 7).astype(np.int64) % (16 * len(self.begin))
        return voice


CONTROLLERS = {  # by number: what it moves, and the least value that moves it down
    64: (Moved.PEDAL, 64),
    66: (Moved.SOSTENUTO, 64),
    120: (Moved.SOUND_OFF, 128),
    121: (Moved.PEDAL, 128),  # reset of all controllers
    123: (Moved.NOTES_OFF, 128),
}


def _message_tables() -> tuple[NDArray[np.uint16], Bytes]:
    """By the lower bits of a status and a first data byte: `Events.moved` in a song, and what second one is down."""
    moved = np.full((8, 16, 256), Moved.NOTHING << 11, np.uint16)
    least = np.full((8, 16, 256), 128, np.uint8)
    voice = np.arange(16, dtype=np.uint16) << 7
    moved[:2, :, :128] = voice[:, None] + np.arange(128, dtype=np.uint16)
    least[1] = 1
    for number, (what, value) in CONTROLLERS.items():
        moved[3, :, number], least[3, :, number] = (what << 11) + voice, value
    moved[3, DRUM_CHANNEL] = Moved.NOTHING << 11
    moved[:2, DRUM_CHANNEL] = Moved.DRUM << 11
    return moved.ravel(), least.ravel()


MOVED, LEAST = _message_tables()


EVENT_BYTES = bytes([3] * 0x80 + [4] * 0x40 + [0] * 0x20 + [4] * 0x10 + [0] * 0x10)
"""for each byte in a status byte's place, 1 + the bytes of its event; 3 for running status, 0 for rare events"""


def _places() -> array[int]:
    return array("q")


@dataclass
class Track:
    """What was read of one track, in the order of its bytes."""

    begin: int
    end: int
    """the place behind it"""
    is_closed: bool = False
    """whether an End of Track stands there"""
    title: str = ""
    leaps: array[int] = field(default_factory=_places)
    """places at which eight events begin (each at its delta time)"""
    singles: array[int] = field(default_factory=_places)
    """those at which one does, and among them the rare ones"""
    rare: array[int] = field(default_factory=_places)
    tempos: array[int] = field(default_factory=_places)
    """place << 24 | microseconds"""
    programs: array[int] = field(default_factory=_places)
    """place << 16 | channel << 8 | program"""
    mended: Counter[str] = field(default_factory=Counter)

    def add_program(self, place: int, status: int, program: int) -> None:
        if program >= 0x80:
            self.mended[HIGH_BYTES] += 1
        elif status >> 4 == 0xC:
            self.programs.append(place << 16 | (status & 15) << 8 | program)

    def add_tempo(self, place: int, content: bytes) -> None:
        tempo_us = int.from_bytes(content, "big") if len(content) == 3 else 0
        if tempo_us:
            self.tempos.append(place << 24 | tempo_us)
        else:  # 0 would stop time
            self.mended["tempo events without a tempo, left out"] += 1

    def extend(self, more: Track) -> None:
        """Goes on with what was read behind the end."""
        for name in ("leaps", "singles", "rare", "tempos", "programs", "mended"):
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.end, self.is_closed, self.title = more.end, more.is_closed, self.title or more.title


class Walk:
    """Walks through the tracks of a file, in the file's order; then `events` gives what they hold.

    Attributes:
        tracks: those that were read.
        mended: counts what did not fit and was read or left out anyway.
    """

    def __init__(self, data: bytes, mended: Counter[str]) -> None:
        self.data = data + PADDING
        self.mended = mended
        self.tracks: list[Track] = []
        self._make_table()

    @property
    def title(self) -> str:
        return next((track.title for track in self.tracks if track.title), "")

    def read(self, start: int, stop: int, *, whole: bool = False) -> int:
        """Reads a track from ``start`` to ``stop``; gives where it ends.

        What follows an End of Track is read if it goes on cleanly to ``stop``; otherwise the track ends there. Raises
        DamageError, with nothing read, if the bytes before that are no sequence of events, or the track is to be
        ``whole`` and does not end at ``stop`` with an End of Track.
        """
        track = Track(start, start)
        self._to_end_of_track(track, stop)
        if track.end < stop and not self.data.startswith(b"MTrk", track.end):
            with suppress(DamageError):
                self._behind_end_of_track(track, stop)
        if whole and not (track.is_closed and track.end == stop):
            raise DamageError("cut short")
        self.mended.update(track.mended)
        self.tracks.append(track)
        return track.end

    def read_completed(self, start: int, rest: bytes) -> bool:
        """Reads the last track with ``rest`` behind the file's bytes; whether it is whole so."""
        self.data = self.data[: -len(PADDING)] + rest + PADDING
        self._make_table()
        with suppress(DamageError):
            self.read(start, len(self.data) - len(PADDING), whole=True)
            self.mended["End of Track cut off"] += 1
            return True
        return False

    def _behind_end_of_track(self, track: Track, stop: int) -> None:
        more = Track(track.end, track.end, is_closed=True)
        while more.is_closed and more.end < stop:
            self._to_end_of_track(more, stop)
        starts = np.setdiff1d(self._starts([more]), more.rare)
        data = np.frombuffer(self.data, np.uint8)
        _messages(data, _deltas(data, starts)[0])
        more.mended["tracks continued behind an End of Track"] += 1
        track.extend(more)

    def _to_end_of_track(self, track: Track, stop: int) -> None:
        """Reads on to the next End of Track or to ``stop``."""
        place, track.is_closed = self._rare_events(track, track.end, stop, running=0)
        while place < stop and not track.is_closed:
            place = self._common_events(track, place, stop)
            if place < stop:
                place, track.is_closed = self._rare_events(track, place, stop, running=None)
        if place > stop:
            raise DamageError("damaged: a track ends inside an event; get an intact copy")
        track.end = place

    def _make_table(self) -> None:
        """For every place: where the next event, the second, fourth and eighth begin, if one begins there.

        A place is its own next one where that event is rare, or its delta time long.
        """
        size = len(self.data) - len(PADDING)
        goes_on = np.frombuffer(self.data, np.uint8) >> 7  # 1 for bytes of delta times that are not the last
        one_byte = np.frombuffer(self.data.translate(EVENT_BYTES), np.uint8)[1:] * (goes_on ^ 1)[:-1]
        longer = one_byte[1:]
        steps = one_byte[:-1] + goes_on[:-2] * (longer + (longer > 0))
        self.next_1 = np.arange(size + TABLED_BYTES)
        self.next_1[:size] += steps[:size]
        self.next_2 = self.next_1.take(self.next_1)
        self.next_4 = self.next_2.take(self.next_2)
        self.next_8 = self.next_4.take(self.next_4).data

    def _common_events(self, track: Track, place: int, stop: int) -> int:
        """Leaps from ``place`` on as far as the table knows, at most to ``stop`` or one event beyond."""
        next_8, append = self.next_8, track.leaps.append
        while place < stop:
            ahead = next_8[place]
            if ahead == place:
                break
            if ahead <= stop:
                append(place)
            else:
                track.singles.append(place)
                ahead = int(self.next_1[place])
            place = ahead
        return place

    def _starts(self, tracks: list[Track]) -> Ints:
        """(E,) where the events of tracks begin, in the file's order."""
        first = _joined(track.leaps for track in tracks)
        second = np.concatenate([first, self.next_1[first]])
        fourth = np.concatenate([second, self.next_2[second]])
        low = tracks[0].begin if tracks else 0
        marks = np.zeros(tracks[-1].end + 1 - low if tracks else 0, bool)
        marks[_joined(track.singles for track in tracks) - low] = True
        marks[np.concatenate([fourth, self.next_4[fourth]]) - low] = True
        marks[[track.end - low for track in tracks]] = False  # where a leap ends before its eighth event
        return low + np.flatnonzero(marks)

    def _rare_events(self, track: Track, place: int, stop: int, *, running: int | None) -> tuple[int, bool]:
        """Reads from ``place`` on until the table knows the next event, which begins at the place given, or an End of
        Track, behind which the place is.

        ``running`` is the status that an event without one takes: None for one with two data bytes, 0 for none.
        """
        data = self.data
        while place < stop:
            start = place
            while data[place] >= 0x80:
                place += 1
            if place - start > 3:
                raise DamageError("damaged: a delta time is longer than four bytes; get an intact copy")
            place += 1
            status = data[place]
            if status < 0x80 and running is not None:
                if not running:
                    raise DamageError("damaged: a track's first event has no status byte; get an intact copy")
                status = running
            elif EVENT_BYTES[status]:
                if place - start <= TABLED_DELTA_BYTES:
                    return start, False
                track.singles.append(start)
                running = None
                place += EVENT_BYTES[status] - 1
                continue
            else:
                place += 1
            track.singles.append(start)
            track.rare.append(start)
            if status < 0xF0:
                running = status
                track.add_program(place, status, data[place])
                place += 1
            elif status == 0xFF:
                kind, length = data[place], data[place + 1]
                place += 2
                if length >= 0x80:
                    length, place = self._number(place - 1)
                if kind == SET_TEMPO:
                    track.add_tempo(start, data[place : place + length])
                elif kind == TRACK_NAME and not track.title:
                    track.title = _text(data[place : place + length])
                place += length
                if kind == END_OF_TRACK and place <= stop:
                    return place, True
            elif status in (0xF0, 0xF7):
                length, place = self._number(place)
                place += length
            else:
                place += SYSTEM_DATA_BYTES.get(status, 0)
        return place, False

    def _number(self, place: int) -> tuple[int, int]:
        """A variable-length number and the place behind it."""
        value = 0
        for behind, byte in enumerate(self.data[place : place + 4], place + 1):
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                return value, behind
        raise DamageError("damaged: a variable-length number is longer than four bytes; get an intact copy")

    def events(self, *, in_turn: bool) -> Events:
        """What the tracks hold, played at once or ``in_turn``. Raises DamageError if a note lacks key or velocity."""
        data = np.frombuffer(self.data, np.uint8)
        starts = self._starts(self.tracks)
        place, delta = _deltas(data, starts)
        total = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(delta, out=total[1:])
        edges = np.searchsorted(starts, [track.begin for track in self.tracks])  # the first event of each track
        begin, tick = total[edges], total[1:]
        if not in_turn:
            for first, behind, ticks in zip(edges, np.append(edges[1:], len(starts)), begin):
                tick[first:behind] -= ticks
            begin = begin[:1]

        def song_of(event: Ints) -> Ints:
            return np.searchsorted(edges, event, side="right") - 1 if in_turn else np.zeros(len(event), np.int64)

        is_common = np.ones(len(starts), bool)
        is_common[np.searchsorted(starts, _joined(track.rare for track in self.tracks))] = False
        common = np.flatnonzero(is_common)
        chosen, moved, down, value = self._of_interest(data, place[common])
        event = common[chosen]
        if in_turn:
            what, key = np.divmod(moved.astype(np.int64), 16 << 7)
            moved = ((what * len(edges) + song_of(event)) << 11) + key
        of_tempo, tempo_us = _unpacked(_joined(track.tempos for track in self.tracks), starts, 24)
        of_program, program = _unpacked(_joined(track.programs for track in self.tracks), starts, 16)
        tempos = np.stack([tick[of_tempo], song_of(of_tempo), tempo_us])
        programs = np.stack([tick[of_program], song_of(of_program) << 4 | program >> 8, program & 0xFF])
        return Events(tick[event], moved, down, value, begin, tempos, programs)

    def _of_interest(self, data: Bytes, place: Ints) -> tuple[Ints, NDArray[np.integer[Any]], Bools, Bytes]:
        """Which of the messages at ``place`` move anything, and what of `Events` comes from their bytes."""
        status, first, second, high = _messages(data, place)
        self.mended[HIGH_BYTES] += high
        message = (status & 0x7F).astype(np.uint16) << 8 | first
        moved = MOVED[message]
        chosen = np.flatnonzero(moved < Moved.NOTHING << 11)
        down = second >= LEAST[message]
        return chosen, moved[chosen], down[chosen], second[chosen]


def _messages(data: Bytes, place: Ints) -> tuple[Bytes, Bytes, Bytes, int]:
    """The status, running status filled in, and data bytes of the messages at ``place``; how many had one above 127.

    Raises DamageError if a note lacks its key or velocity.
    """
    status = data[place]
    is_told = status >= 0x80
    statuses = np.flatnonzero(is_told)
    if len(statuses) < len(status):
        status = status[statuses][np.cumsum(is_told) - 1]
    place = place + is_told
    first, second = data[place], data[place + 1]
    if (first | second).max(initial=0) < 0x80:
        return status, first, second, 0
    high = (first | second) >= 0x80
    if np.any(high & (status < 0xA0) & ((first >= 0x80) | (status >= 0x90))):  # a release's velocity is no matter
        raise DamageError("damaged: a note's key or velocity is above 127; get an intact copy")
    return status, first, np.minimum(second, 127), int(np.count_nonzero(high))


def _joined(columns: Iterable[array[int]]) -> Ints:
    return np.frombuffer(b"".join(columns), np.int64)


def _unpacked(values: Ints, starts: Ints, bits: int) -> tuple[Ints, Ints]:
    """The numbers of events, and their values, from (place << bits | value); the place lies inside the event."""
    return np.searchsorted(starts, values >> bits, side="right") - 1, values & (1 << bits) - 1


def _deltas(data: Bytes, starts: Ints) -> tuple[Ints, Ints]:
    """The variable-length numbers at ``starts``: (E,) the places behind them, (E,) their values."""
    byte, following = data[starts], data[starts + 1]
    goes_on = byte >> 7
    place = starts + 1 + goes_on
    delta = (byte & 0x7F).astype(np.int64) << 7 * goes_on | (following & 0x7F) * goes_on
    going = np.flatnonzero(goes_on & following >> 7)
    while len(going):
        byte = data[place[going]]
        delta[going] = delta[going] << 7 | (byte & 0x7F)
        place[going] += 1
        going = going[byte >= 0x80]
    return place, delta


def _text(content: bytes) -> str:
    """Text of a meta event on one line; MIDI names no encoding, so UTF-8 where it fits and Latin-1 elsewhere."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
