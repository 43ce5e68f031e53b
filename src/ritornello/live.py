"""MIDI ports, and a duet on them: messages in, keys out, by the clock."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ritornello.duet import Duet
from ritornello.errors import RitornelloError

NAME = "Ritornello"
VIRTUAL = "virtual"
"""instead of a port's name: one of our own, to which other programs connect"""
NOTE_OFF, NOTE_ON, CONTROL = 0x80, 0x90, 0xB0
PEDAL, ALL_NOTES_OFF = 64, 123
CLOCK, START, STOP = 0xF8, 0xFA, 0xFC
CLOCKS_PER_QUARTER = 24
LOOK_S = 1.0
"""between looks at whether the ports are still there"""
SENDING_S = 0.5
"""that a port stays open behind its last message: some drivers send in a thread of their own, and forget the rest"""
ALSA_PLACE = re.compile(r" \d+:\d+$")
"""what ALSA puts behind a name: other numbers when the port comes back"""

Message = tuple[float, Sequence[int]]


class Port(Protocol):
    """What a duet sends to."""

    def send(self, *message: int) -> None:
        """One message, at once; nothing where the port has vanished."""


class Ports:
    """One input and one output of the system's, by `rtmidi2`; ports that vanish are used again when they come back.

    Args:
        source: name, or part of the name, of the port that is listened to; `VIRTUAL` for one of our own.
        target: the same of the port that is sent to.
        receive: is given the time and the bytes of each message, in a thread of the system's.
        clock: the time in seconds.

    Raises:
        RitornelloError: without rtmidi2, without MIDI on this machine, or for a port that is not there.
    """

    def __init__(
        self, source: str, target: str, receive: Callable[[Message], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rtmidi, self._names, self._looked_s = loaded(), (source, target), clock()
        self._clock, self._receive = clock, receive
        self._open: list[Any] = [None, None]
        for number, name in enumerate(self._names):
            there = self._there(number)
            if name != VIRTUAL and not _found(name, there):
                kind = ("listen to", "send to")[number]
                known = f"there are {', '.join(there)}" if there else "there is none"
                raise RitornelloError(f"no MIDI port named {name!r} to {kind}; {known}; or name {VIRTUAL!r}")
            self._connect(number)

    def send(self, *message: int) -> None:
        """One message, at once; nothing where the port has vanished."""
        if self._open[1] is not None:
            with suppress(Exception):  # rtmidi2's own; a port that was just pulled out
                self._open[1].send_raw(*message)

    def look(self) -> list[str]:
        """At most once in `LOOK_S`: the names of ports that are gone since the last look; others are taken again."""
        if self._clock() - self._looked_s < LOOK_S:
            return []
        self._looked_s = self._clock()
        gone = []
        for number, name in enumerate(self._names):
            if name == VIRTUAL:
                continue
            is_there = _found(name, self._there(number)) is not None
            if is_there and self._open[number] is None:
                self._connect(number)
                if number:  # it may have been pulled out while keys were down
                    self.send(CONTROL, ALL_NOTES_OFF, 0)
            elif not is_there and self._open[number] is not None:
                gone.append(name)
                self._close(number)
        return gone

    def close(self) -> None:
        """Closes both."""
        time.sleep(SENDING_S)
        for number in range(2):
            self._close(number)

    def _there(self, number: int) -> list[str]:
        return _listed(self._rtmidi)[number]

    def _connect(self, number: int) -> None:
        made = _opened(self._rtmidi, number, self._names[number])
        if number == 0:
            made.callback = lambda message, _: self._receive((self._clock(), message))
        self._open[number] = made

    def _close(self, number: int) -> None:
        if self._open[number] is not None:
            with suppress(Exception):
                self._open[number].close_port()
        self._open[number] = None


def run(
    duet: Duet,
    inbox: queue.SimpleQueue[Message],
    port: Port,
    *,
    stop: Callable[[], bool],
    look: Callable[[], list[str]] = lambda: [],
    beats_per_minute: float | None = None,
    monitor: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Plays until ``stop`` says so; no key of the model's is left down, however it ends.

    Args:
        duet: whose keys go to ``port`` (see `sender`).
        inbox: messages and when they came.
        port: what MIDI clock and the last all-notes-off are sent to.
        stop: asked at least every twentieth of a second.
        look: see `Ports.look`; a port that vanished ends the model's turn.
        beats_per_minute: of the MIDI clock that is sent; None for none. It is told to start with the first key, when
            whoever is to follow is connected.
        monitor: called as often.
        clock: the time in seconds.
    """
    beat_s = None if beats_per_minute is None else 60 / (beats_per_minute * CLOCKS_PER_QUARTER)
    next_beat_s, started = clock(), False
    try:
        while not stop():
            wait_s = duet.tick(clock())
            if beat_s is not None:
                if duet.has_begun and not started:
                    port.send(START)
                    next_beat_s, started = clock(), True
                while next_beat_s <= clock():
                    port.send(CLOCK)
                    next_beat_s += beat_s
                wait_s = min(wait_s, max(0.0, next_beat_s - clock()))
            with suppress(queue.Empty):
                message = inbox.get(timeout=wait_s) if wait_s > 0 else inbox.get_nowait()
                while True:
                    obey(duet, *message)
                    message = inbox.get_nowait()
            if look():
                duet.interrupt(clock())
            monitor()
    finally:
        duet.close(clock())
        if started:
            port.send(STOP)
        port.send(CONTROL, ALL_NOTES_OFF, 0)


def obey(duet: Duet, time_s: float, message: Sequence[int]) -> None:
    """Tells a duet what a MIDI message says of keys and pedal, on whatever channel; all others change nothing."""
    kind = message[0] & 0xF0 if message else 0
    if kind not in (NOTE_OFF, NOTE_ON, CONTROL) or len(message) < 3:
        return
    number, value = message[1] & 127, message[2] & 127
    if kind == CONTROL:
        if number == PEDAL:
            duet.pedal(time_s, value >= 64)
    elif kind == NOTE_ON and value:
        duet.strike(time_s, number, value)
    else:
        duet.release(time_s, number)


def sender(port: Port) -> Callable[[int, int, float], None]:
    """What a `Duet` sends its keys with."""
    return lambda pitch, velocity, _: port.send(NOTE_ON if velocity else NOTE_OFF, pitch, velocity)


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """While it lasts, another process lets all keys of a port go should this one be killed or fail in its depths.

    A port of our own vanishes with us: there is nothing to send to then, and whoever listened sees it go.
    """
    if name == VIRTUAL:
        yield
        return
    command = [sys.executable, "-c", "from ritornello.live import watch; watch()", name]
    apart = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # from the terminal's Ctrl-C, as the session is
    nowhere = subprocess.DEVNULL
    watcher = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True, creationflags=apart
    )
    try:
        yield
    finally:
        watcher.communicate(b"all is well")


def watch() -> None:
    """What the other process of `guarded` does."""
    if sys.stdin.buffer.read():
        return
    port = _opened(loaded(), 1, sys.argv[1])
    for pitch in range(128):
        port.send_raw(NOTE_OFF, pitch, 0)
    port.send_raw(CONTROL, ALL_NOTES_OFF, 0)
    time.sleep(SENDING_S)
    port.close_port()


def listed() -> tuple[list[str], list[str]]:
    """The names of the ports to listen to and to send to. Raises RitornelloError as `Ports` does."""
    return _listed(loaded())


def loaded() -> Any:
    """The module `rtmidi2`. Raises RitornelloError, saying what to do, where it cannot be used."""
    try:
        import rtmidi2
    except ModuleNotFoundError:
        raise RitornelloError(
            "live MIDI needs the package rtmidi2; install it with: pip install 'ritornello[live]', or rtmidi2 itself on"
            " Linux ARM"
        ) from None
    return rtmidi2


def _listed(rtmidi: Any) -> tuple[list[str], list[str]]:
    try:
        return list(rtmidi.get_in_ports()), list(rtmidi.get_out_ports())
    except RuntimeError:
        raise RitornelloError(
            "this machine has no MIDI; on Linux load ALSA's sequencer with: modprobe snd-seq"
        ) from None


def _opened(rtmidi: Any, number: int, name: str) -> Any:
    """A port to listen to (0) or to send to (1)."""
    port = (rtmidi.MidiIn, rtmidi.MidiOut)[number](NAME)
    if name == VIRTUAL:
        port.open_virtual_port(NAME)
    else:
        there = _listed(rtmidi)[number]
        port.open_port(there.index(_found(name, there) or ""))
    return port


def _found(name: str, there: list[str]) -> str | None:
    """The port of that name, else the first that has it in its name."""
    part = ALSA_PLACE.sub("", name).casefold()
    exact = [port for port in there if port == name]
    return next(iter(exact + [port for port in there if part in port.casefold()]), None)
