"""The bytes of MIDI tracks to their events, in ticks.

Where the next event begins depends on all before it. So a table tells, for every byte at once, where the next event and
the eighth after it would begin if one began there; the walk takes eight events at a step, and only events that are
neither notes nor controllers are read one by one.
"""

from __future__ import annotations

from array import array
from collections import Counter
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
WINDOW_BYTES = 2**16  # of the file for which the table is made at once: so that it stays in the processor's cache
TABLED_DELTA_BYTES = 2  # longer delta times are too rare to be worth it
TABLED_BYTES = TABLED_DELTA_BYTES + 3  # of delta time and event together
PLACES = np.arange(WINDOW_BYTES + TABLED_BYTES)


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


def _event_bytes() -> bytes:
    """For each byte in a status byte's place: 1 + the bytes of its event, 0 for the rare events."""
    sizes = bytearray(256)
    sizes[:0x80] = bytes([3]) * 0x80  # running status: two data bytes
    sizes[0x80:0xC0] = bytes([4]) * 0x40
    sizes[0xE0:0xF0] = bytes([4]) * 0x10
    return bytes(sizes)


EVENT_BYTES = _event_bytes()


class Walk:
    """Walks through the tracks of a file, in the file's order; then `events` gives what they hold.

    Attributes:
        tracks: where each track that was read begins.
        mended: counts what did not fit and was read or left out anyway.
    """

    def __init__(self, data: bytes, mended: Counter[str]) -> None:
        self.data = data + PADDING
        self.mended = mended
        self.tracks: list[int] = []
        self.ends: list[int] = []
        self.starts = bytearray(len(self.data))  # 1 where the delta time of an event begins
        self.rare = bytearray(len(self.data))  # 1 where that of a rare one begins
        self.tempos = array("q")  # place << 24 | microseconds
        self.programs = array("q")  # place << 16 | channel << 8 | program
        self.title = ""
        self.low = self.high = 0  # the table is of the places from low to high
        self.leaps = array("q")  # places in the table from which eight events were taken

    def read(self, start: int, stop: int, *, whole: bool = False) -> int:
        """Reads a track from ``start`` to ``stop``; gives where it ends.

        What follows an End of Track is read if it goes on cleanly to ``stop``; otherwise the track ends there. Raises
        DamageError, with nothing read, if the bytes before that are no sequence of events, or the track is to be
        ``whole`` and does not end at ``stop`` with an End of Track.
        """
        before = self._state()
        try:
            end, is_closed = self._to_end_of_track(start, stop)
            if end < stop:
                end, is_closed = self._behind_end_of_track(end, stop)
            if whole and not (is_closed and end == stop):
                raise DamageError("cut short")
        except DamageError:
            self._undo(before, start, stop)
            raise
        self.tracks.append(start)
        self.ends.append(end)
        return end

    def read_completed(self, start: int, rest: bytes) -> bool:
        """Reads the last track with ``rest`` behind the file's bytes; whether it is whole so."""
        self._mark()
        self.low = self.high = 0
        stop = len(self.data) - len(PADDING) + len(rest)
        self.data = self.data[: -len(PADDING)] + rest + PADDING
        self.starts.extend(bytes(len(rest)))
        self.rare.extend(bytes(len(rest)))
        try:
            self.read(start, stop, whole=True)
        except DamageError:
            return False
        self.mended["End of Track cut off"] += 1
        return True

    def _behind_end_of_track(self, place: int, stop: int) -> tuple[int, bool]:
        if self.data.startswith(b"MTrk", place):
            return place, True
        before, end, is_closed = self._state(), place, True
        try:
            while is_closed and end < stop:
                end, is_closed = self._to_end_of_track(end, stop)
            self._mark()
            common = np.frombuffer(self.starts, np.uint8)[place:end] > np.frombuffer(self.rare, np.uint8)[place:end]
            data = np.frombuffer(self.data, np.uint8)
            _messages(data, _deltas(data, place + np.flatnonzero(common))[0])
        except DamageError:
            self._undo(before, place, stop)
            return place, True
        self.mended["tracks that go on behind an End of Track"] += 1
        return end, is_closed

    def _state(self) -> tuple[Any, ...]:
        return self.low, len(self.leaps), len(self.tempos), len(self.programs), self.title, self.mended.copy()

    def _undo(self, state: tuple[Any, ...], start: int, stop: int) -> None:
        """Forgets what was read from ``start`` to ``stop`` since the walk was in ``state``."""
        low, leaps, tempos, programs, self.title, mended = state
        del self.leaps[leaps if low == self.low else 0 :], self.tempos[tempos:], self.programs[programs:]
        self.starts[start : stop + 1] = self.rare[start : stop + 1] = bytes(stop + 1 - start)
        self.mended.clear()
        self.mended.update(mended)

    def _to_end_of_track(self, place: int, stop: int) -> tuple[int, bool]:
        """Reads on to the next End of Track or to ``stop``; gives the place behind, and which it was."""
        place, is_closed = self._rare_events(place, stop, running=0)
        while place < stop and not is_closed:
            if not self.low <= place < self.high:
                self._look(place)
            place = self._common_events(place, stop)
            if place < min(stop, self.high):
                place, is_closed = self._rare_events(place, stop, running=None)
        if place > stop:
            raise DamageError("damaged: a track ends inside an event; get an intact copy")
        return place, is_closed

    def _look(self, place: int) -> None:
        """Makes the table from ``place`` on."""
        self._mark()
        size = min(WINDOW_BYTES, len(self.data) - len(PADDING) - place)
        self.low, self.high = place, place + size
        seen = self.data[place : place + size + len(PADDING)]
        goes_on = np.frombuffer(seen, np.uint8) >> 7  # 1 for bytes of delta times that are not the last
        one_byte = np.frombuffer(seen.translate(EVENT_BYTES), np.uint8)[1:] * (goes_on ^ 1)[:-1]
        longer = one_byte[1:]
        steps = one_byte[:-1] + goes_on[:-2] * (longer + (longer > 0))
        next_1 = np.append(PLACES[:size] + steps[:size], PLACES[size : size + TABLED_BYTES])
        next_2 = next_1.take(next_1)
        next_4 = next_2.take(next_2)
        self.next_1, self.next_2, self.next_4 = next_1, next_2, next_4
        self.next_8 = next_4.take(next_4).data

    def _common_events(self, place: int, stop: int) -> int:
        """Leaps from ``place`` on as far as the table knows, at most to ``stop`` or one event beyond."""
        low, next_8, append = self.low, self.next_8, self.leaps.append
        here, limit = place - low, stop - low
        while here < limit:
            ahead = next_8[here]
            if ahead == here:
                break
            if ahead <= limit:
                append(here)
            else:
                ahead = int(self.next_1[here])
                self.starts[low + here] = 1
            here = ahead
        return low + here

    def _mark(self) -> None:
        """Marks the events of all leaps in ``starts``."""
        if self.leaps:
            first = np.array(self.leaps, np.int64)
            second = np.concatenate([first, self.next_1[first]])
            fourth = np.concatenate([second, self.next_2[second]])
            starts = np.frombuffer(self.starts, np.uint8)
            starts[self.low + np.concatenate([fourth, self.next_4[fourth]])] = 1
            del self.leaps[:]

    def _rare_events(self, place: int, stop: int, *, running: int | None) -> tuple[int, bool]:
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
                self.starts[start] = 1
                running = None
                place += EVENT_BYTES[status] - 1
                continue
            else:
                place += 1
            self.starts[start] = self.rare[start] = 1
            if status < 0xF0:
                running = status
                self._program(place, status, data[place])
                place += 1
            elif status == 0xFF:
                kind, length = data[place], data[place + 1]
                place += 2
                if length >= 0x80:
                    length, place = self._number(place - 1)
                if kind == SET_TEMPO:
                    self._tempo(start, data[place : place + length])
                elif kind == TRACK_NAME and not self.title:
                    self.title = _text(data[place : place + length])
                place += length
                if kind == END_OF_TRACK and place <= stop:
                    return place, True
            elif status in (0xF0, 0xF7):
                length, place = self._number(place)
                place += length
            else:
                place += SYSTEM_DATA_BYTES.get(status, 0)
        return place, False

    def _program(self, place: int, status: int, program: int) -> None:
        if program >= 0x80:
            self.mended[HIGH_BYTES] += 1
        elif status >> 4 == 0xC:
            self.programs.append(place << 16 | (status & 15) << 8 | program)

    def _tempo(self, place: int, content: bytes) -> None:
        tempo_us = int.from_bytes(content, "big") if len(content) == 3 else 0
        if tempo_us:
            self.tempos.append(place << 24 | tempo_us)
        else:  # 0 would stop time
            self.mended["tempo events without a tempo, left out"] += 1

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
        self._mark()
        data = np.frombuffer(self.data, np.uint8)
        marks = np.frombuffer(self.starts, bool)
        marks[self.ends] = False
        starts = np.flatnonzero(marks)
        place, delta = _deltas(data, starts)
        total = np.zeros(len(starts) + 1, np.int64)
        np.cumsum(delta, out=total[1:])
        edges = np.searchsorted(starts, self.tracks)  # the first event of each track
        begin, tick = total[edges], total[1:]
        if not in_turn:
            for first, behind, ticks in zip(edges, np.append(edges[1:], len(starts)), begin):
                tick[first:behind] -= ticks
            begin = begin[:1]

        def song_of(event: Ints) -> Ints:
            return np.searchsorted(edges, event, side="right") - 1 if in_turn else np.zeros(len(event), np.int64)

        common = np.flatnonzero(~np.frombuffer(self.rare, bool)[starts])
        chosen, moved, down, value = self._of_interest(data, place[common])
        event = common[chosen]
        if in_turn:
            what, key = np.divmod(moved.astype(np.int64), 16 << 7)
            moved = ((what * len(edges) + song_of(event)) << 11) + key
        of_tempo, tempo_us = _unpacked(self.tempos, starts, 24)
        of_program, program = _unpacked(self.programs, starts, 16)
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
    told = np.flatnonzero(is_told)
    if len(told) < len(status):
        status = status[told][np.cumsum(is_told) - 1]
    place = place + is_told
    first, second = data[place], data[place + 1]
    if (first | second).max(initial=0) < 0x80:
        return status, first, second, 0
    high = (first | second) >= 0x80
    if np.any(high & (status < 0xA0) & ((first >= 0x80) | (status >= 0x90))):  # a release's velocity is no matter
        raise DamageError("damaged: a note's key or velocity is above 127; get an intact copy")
    return status, first, np.minimum(second, 127), int(np.count_nonzero(high))


def _unpacked(packed: array[int], starts: Ints, bits: int) -> tuple[Ints, Ints]:
    """The numbers of events, and their values, from (place << bits | value); the place lies inside the event."""
    values = np.array(packed, np.int64)
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
