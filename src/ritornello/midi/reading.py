"""MIDI files to pieces: formats 0, 1 and 2, tempo maps, SMPTE time, all tracks as one piano."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.midi.tracks import DamageError, Header, Ints, Track, read_chunks, read_track
from ritornello.notes import MAX_SECONDS, Piece

DRUM_CHANNEL = 9
PEDAL = 64  # controller number; a value of 64 or more is down
RESET_CONTROLLERS = 121  # controller number; lifts the pedal
DEFAULT_TEMPO_US = 500_000  # microseconds per quarter note until a file says otherwise
NTSC_FRAMES_PER_S = 30_000 / 1_001  # what SMPTE's "29" stands for


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
        header, chunks = read_chunks(data)
        tracks = [read_track(chunk) for chunk in chunks]
        songs = [[track] for track in tracks] if header.format == 2 else [tracks]
        return _joined([_song(song, header, keep_programs) for song in songs], _title(tracks))
    except DamageError as damage:
        raise RitornelloError(f"{name}: {damage}") from None


def _title(tracks: list[Track]) -> str:
    return next((track.name for track in tracks if track.name), "")


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
            raise DamageError("damaged header (a division of 0 ticks); get an intact copy")
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


def _song(tracks: list[Track], header: Header, keep_programs: Container[int] | None) -> _Song:
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


def _notes(track: Track, end_tick: int) -> tuple[Ints, ...]:
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


def _pedal_spans(track: Track, end_tick: int) -> list[tuple[Ints, ...]]:
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
        raise DamageError(
            f"lasts {begin_s[-1]:.0f} s; at most {MAX_SECONDS:.0f} s can be read: cut it into shorter files"
        )
    notes, pedals = [np.zeros((4, 0))], [np.zeros((0, 2))]
    for song, begin in zip(songs, begin_s, strict=False):
        notes.append(song.notes + np.array([begin, begin, 0, 0])[:, None])
        pedals.append(song.pedals + begin)
    onset, offset, pitch, velocity = np.concatenate(notes, axis=1)
    return Piece(onset, offset, pitch.astype(np.uint8), velocity.astype(np.uint8), np.concatenate(pedals), title)
