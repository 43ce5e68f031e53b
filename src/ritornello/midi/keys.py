"""What becomes of keys and pedals: strikes and releases to notes, presses and lifts to spans."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.midi.tracks import Bools, Events, Ints, Moved


class Played(NamedTuple):
    """Notes and spans of the pedal: the event that begins each, and the ticks at which it begins and ends.

    strike, on, off: (N,) of the notes. press, down, up: (P,) of the spans.
    """

    strike: Ints
    on: Ints
    off: Ints
    press: Ints
    down: Ints
    up: Ints


def played(events: Events, mended: Counter[str]) -> Played:
    """Notes and spans, from events in playing order.

    Keys and pedals that are never let go end with the last event of their song's keys and pedals, of which a reset of
    all controllers is one.
    """
    order = np.argsort(events.moved, kind="stable")
    moved = events.moved[order]
    limits = np.searchsorted(moved, np.arange(1, Moved.NOTHING) * 16 * len(events.begin) << 7)
    edges = pairwise([0, *limits.tolist(), len(order)])
    keys, pedals, sound_off, notes_off, sostenuto, drums = (order[start:stop] for start, stop in edges)
    mended["presses of the sostenuto pedal, left out"] += int(np.count_nonzero(events.down[sostenuto]))
    mended["notes of drums, left out"] += int(np.count_nonzero(events.down[drums]))

    latest = order[np.flatnonzero(_edges(moved[: limits[1]])[1:])]  # of each key and pedal
    end_tick = np.zeros(len(events.begin), np.int64)
    np.maximum.at(end_tick, events.voice(latest) >> 4, events.tick[latest])
    end_tick = np.repeat(end_tick, 16)

    strike, off = _notes(events, keys, np.append(sound_off, notes_off), end_tick, mended)
    press, down, up = _spans(events, pedals, sound_off, end_tick, mended)
    return Played(strike, events.tick[strike], off, press, down, up)


def _edges(moved: NDArray[np.integer[Any]]) -> Bools:
    """(E + 1,) where something else is moved than before, beginning and end included."""
    edges = np.ones(len(moved) + 1, bool)
    np.not_equal(moved[1:], moved[:-1], out=edges[1:-1])
    return edges if len(moved) else edges[1:]


def _notes(events: Events, keys: Ints, silences: Ints, end_tick: Ints, mended: Counter[str]) -> tuple[Ints, Ints]:
    """The strikes, and the ticks at which their notes end, from the events of ``keys``, one key after the other.

    A release ends the oldest note of its key (first in, first out), and one of a silent key is nothing. Where strikes
    outnumber releases, those have lost theirs that would stay open if releases closed strikes as brackets do: such a
    note ends at its key's next strike, or else with the music. So one lost release costs one note. Among a key's events
    at one tick, the releases of older notes come first. ``silences`` end all notes of their voice.
    """
    moved, tick, struck = events.moved[keys], events.tick[keys], events.down[keys]
    edges = _edges(moved)
    begins, is_last = edges[:-1], edges[1:]
    if not len(silences) and struck[::2].all() and not (struck[1::2] | begins[1::2]).any() and not len(keys) % 2:
        return keys[::2], tick[1::2]
    if len(silences):
        silences = np.sort(_by_voice(events, silences))
        section = np.searchsorted(silences, _by_voice(events, keys))
        edges |= _edges(section)
    off = np.append(tick[1:], 0)[: len(keys)]
    is_odd = (begins & ~struck) | (is_last & struck)
    is_odd[1:] |= (struck[1:] == struck[:-1]) & ~begins[1:]
    odd = np.flatnonzero(is_odd)
    if len(odd):
        edge = np.flatnonzero(edges)
        group = np.unique(np.searchsorted(edge, odd, side="right") - 1)
        start, stop = edge[group], edge[group + 1]
        voice = events.voice(keys[start])
        end, silenced = end_tick[voice], np.zeros(len(group), bool)
        if len(silences):
            by, event = np.divmod(np.append(silences, -1)[section[start]], len(events.tick))
            silenced = by == voice
            end = np.where(silenced, events.tick[event], end)
        for begin, behind, close, is_silenced in zip(*(column.tolist() for column in (start, stop, end, silenced))):
            mine = slice(begin, behind)
            off[mine], lost, is_open = _paired(tick[mine].tolist(), struck[mine].tolist(), close)
            mended["notes without a release"] += lost + (is_open and not is_silenced)
    strikes = np.flatnonzero(struck)
    return keys[strikes], off[strikes]


def _by_voice(events: Events, event: Ints) -> Ints:
    """A number for each event: they are in order of voice, then of playing."""
    return events.voice(event) * len(events.tick) + event


def _paired(ticks: list[int], struck: list[bool], end_tick: int) -> tuple[list[int], int, bool]:
    """From the events of one key: when notes end, how many do at the next strike, and whether one at ``end_tick``.

    The first list has a tick for every event; that of a release means nothing.
    """
    line: list[int] = []  # the events that count, in the order in which they do
    of_tick: list[int] = []  # this tick's strikes, and releases of these
    older = newer = now = 0  # notes open: struck before this tick, and at it
    for event, tick in enumerate(ticks):
        if tick != now:
            line += of_tick
            of_tick = []
            older, newer, now = older + newer, 0, tick
        if struck[event]:
            of_tick.append(event)
            newer += 1
        elif older:
            line.append(event)
            older -= 1
        elif newer:
            of_tick.append(event)
            newer -= 1
    off = [end_tick] * len(ticks)
    strikes: list[int] = []
    releases: list[int] = []
    again, lost, is_open = -1, 0, False
    for event in reversed(line + of_tick):
        if not struck[event]:
            releases.append(event)
            continue
        if len(strikes) < len(releases):
            strikes.append(event)
        elif again < 0:
            is_open = True
        else:
            off[event] = again
            lost += 1
        again = ticks[event]
    for event, release in zip(strikes, releases):
        off[event] = ticks[release]
    return off, lost, is_open


def _spans(
    events: Events, pedals: Ints, sound_off: Ints, end_tick: Ints, mended: Counter[str]
) -> tuple[Ints, Ints, Ints]:
    """The presses, and the ticks at which their spans begin and end, from the events of ``pedals``, voice by voice.

    ``sound_off`` interrupts a span for one tick: what sounds ends there, and what is let go later is held again.
    """
    silences = np.zeros(len(pedals), bool)
    if len(sound_off):
        silences = np.repeat([False, True], [len(pedals), len(sound_off)])
        pedals = np.append(pedals, sound_off)
        order = np.argsort(_by_voice(events, pedals))
        pedals, silences = pedals[order], silences[order]
    tick, down, voice = events.tick[pedals], events.down[pedals], events.voice(pedals)
    edges = _edges(voice)
    begins, is_last = edges[:-1], edges[1:]
    if len(sound_off):  # moves no pedal
        down = down[np.maximum.accumulate(np.where(~silences | begins, np.arange(len(pedals)), 0))]
    was_down = ~begins
    was_down[1:] &= down[:-1]
    presses = np.flatnonzero(down & (~was_down | silences))
    lifts = np.flatnonzero(was_down & (~down | silences))
    hanging = np.flatnonzero(down & is_last)
    mended["pedals never lifted"] += len(hanging)
    by_place = np.argsort(np.append(lifts, hanging), kind="stable")
    up = np.append(tick[lifts], end_tick[voice[hanging]])[by_place]
    return pedals[presses], np.minimum(tick[presses] + silences[presses], up), up
