"""A duet at real MIDI ports: JACK's, in user space, with a keyboard and a synthesiser that may be killed.

The wheel of `rtmidi2` has JACK inside, of a version that today's servers refuse; the system's own is loaded before it.
"""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import mido
import pytest

JACK = ctypes.util.find_library("jack")
RTMIDI = importlib.util.find_spec("rtmidi2")
pytestmark = [
    pytest.mark.skipif(not (JACK and shutil.which("jackd")), reason="no JACK server (Debian's jackd2) is installed"),
    pytest.mark.skipif(RTMIDI is None, reason="rtmidi2 is not installed"),
]

# `rtmidi2`, asked for JACK by whoever asks for nothing.
ON_JACK = """
import importlib.util
spec = importlib.util.spec_from_file_location("rtmidi2", {path!r})
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
MidiIn, MidiOut = (lambda name, kind=kind: kind(name, api=real.API_UNIX_JACK) for kind in (real.MidiIn, real.MidiOut))
looking = []
def look(kind):
    looking[:] = looking or [MidiIn("looking"), MidiOut("looking")]
    return looking[kind].ports
get_in_ports, get_out_ports = lambda: look(0), lambda: look(1)
"""
KEYBOARD = """
import sys
import rtmidi2
port = rtmidi2.MidiOut("keyboard")
port.open_virtual_port("keys")
print("there", flush=True)
for line in sys.stdin:
    port.send_raw(*map(int, line.split()))
"""
SYNTHESISER = """
import sys, time
import rtmidi2
port = rtmidi2.MidiIn("synthesiser")
port.ignore_types(True, False, True)
port.callback = lambda message, _: print(*message, flush=True)
port.open_virtual_port("sound")
print("there", flush=True)
while True:
    time.sleep(1)
"""
KEY, AGAIN = 60, 21  # a person's, and the one that calls the model
CALL = [(0x90, KEY, 64), (0x80, KEY, 0), (0x90, AGAIN, 64), (0x80, AGAIN, 0)]


class Jack:
    """A server of its own, and processes that are its clients."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        (folder / "rtmidi2.py").write_text(ON_JACK.format(path=RTMIDI.origin))
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        own = {"JACK_DEFAULT_SERVER": f"test-{os.getpid()}", "JACK_NO_AUDIO_RESERVATION": "1"}
        self.env = os.environ | own | {"PYTHONPATH": os.pathsep.join(paths), "LD_PRELOAD": JACK}
        self._folder, self._stack, self._count = folder, stack, 0
        self.start("jackd", "-r", "-d", "dummy", "-r", "48000", "-p", "1024")
        until(lambda: self.ask("jack_wait", "-c").startswith("running"))

    def start(self, *command: str) -> tuple[subprocess.Popen[str], Path]:
        """A process, and what it has written so far."""
        self._count += 1
        written = self._folder / f"written{self._count}"
        with written.open("w") as out:
            process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, text=True
            )
        self._stack.callback(self.end, process)
        return process, written

    def ask(self, *command: str) -> str:
        """What one of JACK's own tools says."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True).stdout

    def python(self, program: str) -> tuple[subprocess.Popen[str], Path]:
        """A client, once it is there."""
        process, written = self.start(sys.executable, "-c", program)
        until(lambda: "there" in written.read_text())
        return process, written

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        process.terminate()  # a server that is killed leaves its shared memory behind
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdin.close()


@pytest.fixture
def jack(tmp_path: Path) -> Iterator[Jack]:
    with ExitStack() as stack:
        yield Jack(tmp_path, stack)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def messages(written: Path) -> list[tuple[int, ...]]:
    """What the synthesiser has got, in whole lines."""
    lines = written.read_text().split("\n")[:-1]
    return [tuple(map(int, line.split())) for line in lines if line and line.replace(" ", "").isdigit()]


def struck(written: Path) -> int:
    return sum(message[0] == 0x90 for message in messages(written))


def down(written: Path) -> set[int]:
    keys: set[int] = set()
    for kind, pitch, *_ in (message for message in messages(written) if len(message) == 3):
        if kind == 0xB0 and pitch == 123:
            keys.clear()
        elif kind in (0x80, 0x90):
            (keys.add if kind == 0x90 else keys.discard)(pitch)
    return keys


def press(keyboard: subprocess.Popen[str], *played: tuple[int, ...]) -> None:
    for message in played:
        print(*message, file=keyboard.stdin, flush=True)
        time.sleep(0.05)


def duet(jack: Jack, model: Path, *options: str) -> tuple[subprocess.Popen[str], Path]:
    how = ["--takeover", "key", "--engine", "onnx-fp32", "--model", str(model), "--seed", "3", *options]
    return jack.start(sys.executable, "-m", "ritornello", "duet", *how)


def test_ports_that_vanish_are_used_again_and_no_key_is_left_down(jack: Jack, model: Path, tmp_path: Path) -> None:
    keyboard, _ = jack.python(KEYBOARD)
    synthesiser, heard = jack.python(SYNTHESISER)
    listing, listed = jack.start(sys.executable, "-m", "ritornello", "duet")
    assert listing.wait(60) == 0
    assert "--in: keyboard:keys" in listed.read_text()
    assert "--out: synthesiser:sound" in listed.read_text()
    record = tmp_path / "duet.mid"
    options = ("--in", "keyboard", "--out", "synth", "--send-clock", "120", "--record", str(record))
    playing, _ = duet(jack, model, *options)
    until(lambda: (0xF8,) in messages(heard))
    assert (0xFA,) not in messages(heard), "who is to follow may not be connected yet"
    press(keyboard, *CALL[:3])
    until(lambda: (0xFA,) in messages(heard))
    began_s, clocks = time.monotonic(), messages(heard).count((0xF8,))
    until(lambda: struck(heard) > 5)
    time.sleep(max(0.0, began_s + 2 - time.monotonic()))
    beats = (messages(heard).count((0xF8,)) - clocks) / 24
    assert beats == pytest.approx((time.monotonic() - began_s) * 2, abs=0.5)
    press(keyboard, *CALL[:2])
    time.sleep(0.1)
    assert not down(heard), "it is silent at a touch"

    press(keyboard, CALL[2])
    until(lambda: down(heard))
    synthesiser.kill()
    time.sleep(1.5)
    synthesiser, heard = jack.python(SYNTHESISER)
    until(lambda: (0xB0, 123, 0) in messages(heard))  # it may hold what sounded when it went
    press(keyboard, *CALL)
    until(lambda: struck(heard) > 5)

    keyboard.kill()
    until(lambda: not down(heard))  # nobody could have silenced it
    time.sleep(1.5)
    silent = struck(heard)
    keyboard, _ = jack.python(KEYBOARD)
    time.sleep(2.5)
    assert struck(heard) == silent
    press(keyboard, *CALL)
    until(lambda: struck(heard) > silent + 5)

    playing.send_signal(signal.SIGTERM)
    assert playing.wait(30) == 0
    until(lambda: (0xFC,) in messages(heard))
    assert not down(heard)
    tracks = mido.MidiFile(record).tracks
    people = [message.note for message in tracks[0] if message.type == "note_on" and message.velocity]
    assert people == [KEY] * 4
    assert sum(message.type == "note_on" and message.velocity > 0 for message in tracks[1]) > 15


def test_a_process_that_is_killed_leaves_no_key_down(jack: Jack, model: Path) -> None:
    keyboard, _ = jack.python(KEYBOARD)
    _, heard = jack.python(SYNTHESISER)
    playing, _ = duet(jack, model, "--in", "keyboard", "--out", "synthesiser")
    until(lambda: "\n   keyboard:keys" in jack.ask("jack_lsp", "-c"))
    press(keyboard, *CALL)
    until(lambda: struck(heard) > 5 and down(heard))
    playing.kill()
    playing.wait()
    until(lambda: (0xB0, 123, 0) in messages(heard))
    assert {message[1] for message in messages(heard) if message[0] == 0x80} == set(range(128))


def test_others_connect_to_ports_of_our_own(jack: Jack, model: Path) -> None:
    keyboard, _ = jack.python(KEYBOARD)
    _, heard = jack.python(SYNTHESISER)
    playing, _ = duet(jack, model, "--in", "virtual", "--out", "virtual", "--send-clock", "60")
    until(lambda: "Ritornello-01:Ritornello" in jack.ask("jack_lsp"))
    jack.ask("jack_connect", "keyboard:keys", "Ritornello:Ritornello")
    jack.ask("jack_connect", "Ritornello-01:Ritornello", "synthesiser:sound")
    until(lambda: (0xF8,) in messages(heard))
    press(keyboard, *CALL)
    until(lambda: struck(heard) > 5)
    playing.send_signal(signal.SIGINT)
    assert playing.wait(30) == 0
    until(lambda: (0xFC,) in messages(heard))
    assert not down(heard)
