"""Sound, as a WAV file.

The piano of the package, or FluidSynth with a SoundFont's, plays the piece in blocks.

Conventions: times in seconds, F frames of two float32 samples. FluidSynth starts and releases voices only where one of
its own blocks of 64 frames begins, so events lie on that grid: 0.7 ms from their time at most, however long the piece.
The pedal is in the notes' lengths, by the one rule of `Piece.sounding_offset`.
"""

from __future__ import annotations

import os
import sys
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from ctypes import c_int, c_void_p
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.files import whole_file
from ritornello.notes import Piece, Seconds
from ritornello.rendering.piano import Sampler

Frames = NDArray[np.float32]

FRAMES_PER_S = 44_100
GRID_FRAMES = 64
BLOCK_FRAMES = 256 * GRID_FRAMES
FRAME_BYTES = 4
LOUDEST = 10 ** (-1 / 20)  # of full scale: the loudest sample of every file lies at -1 dB
SILENCE = 10 ** (-80 / 20)  # of the loudest sample: where the last sound has died away
NOTHING = 1e-7  # FluidSynth's reverb hums at 3e-8; a piano's softest note reaches 1e-6
TAIL_FRAMES, MAX_TAIL_S = 69 * GRID_FRAMES, 20.0
MAX_WAV_S = (2**32 - 1024) / (FRAMES_PER_S * FRAME_BYTES) - MAX_TAIL_S  # WAV counts bytes in 32 bits
# No chorus, which no piano has. A pedal over dense music holds hundreds of voices, in stereo twice as many.
SETTINGS = {"synth.chorus.active": 0, "synth.polyphony": 1024}
GAIN = 0.2
QUIET_LEVELS = range(5)
LIBRARY = {
    "linux": "apt install libfluidsynth3, dnf install fluidsynth-libs or pacman -S fluidsynth",
    "darwin": "brew install fluid-synth",
    "win32": "choco install fluidsynth",
}
VARIABLE = "RITORNELLO_SOUNDFONT"


class Synth(Protocol):
    """What plays keys."""

    def strike(self, pitch: int, velocity: int) -> None:
        """Strikes a key."""

    def release(self, pitch: int) -> None:
        """Lets it go."""

    def render(self, frames: int) -> Iterator[Frames]:
        """What sounds next, (F, 2) at a time."""


class Event(NamedTuple):
    """A key struck or let go; sorted by time, and within one moment releases come before strikes."""

    at: int  # in units of GRID_FRAMES
    struck: bool
    note: int


def write(
    piece: Piece, path: str | Path, soundfont: Path | None = None, *, progress: Callable[[float], None] | None = None
) -> None:
    """Renders a piece as a WAV file (stereo, 44.1 kHz, 16 bit), written whole or not at all.

    The level is one factor for the whole file, such that its loudest sample lies at -1 dB: nothing clips, and no
    dynamics are lost. Before that factor is known, the sound waits in a nameless temporary file (8 bytes a
    frame); memory does not grow with the piece. The file ends where the last sound has died away.

    Args:
        piece: what to play.
        path: the WAV file; an existing one is replaced.
        soundfont: see `find_soundfont`; None for the package's own piano. Program 0 of bank 0 plays; in a SoundFont
            without it, the first of bank 0.
        progress: called with the seconds of music that have been rendered.

    Raises:
        RitornelloError: if the file cannot be written, the SoundFont not be read, the synthesiser is not installed,
            or the piece is too long for a WAV file.
    """
    check_seconds(piece.seconds)
    with _opened(soundfont) as synth, whole_file(path) as file, TemporaryFile() as waiting:
        frames, peak = 0, 0.0
        for block in _sound(piece, synth):
            waiting.write(block.tobytes())
            frames += len(block)
            peak = max(peak, float(np.abs(block).max()))
            if progress is not None:
                progress(min(frames / FRAMES_PER_S, piece.seconds))
        waiting.seek(0)
        with wave.open(file, "wb") as sound:
            sound.setparams((2, 2, FRAMES_PER_S, frames, "NONE", ""))
            while raw := waiting.read(BLOCK_FRAMES * 2 * FRAME_BYTES):
                sound.writeframesraw(_levelled(np.frombuffer(raw, np.float32), peak))


def find_soundfont(named: Path | None = None) -> Path | None:
    """``named``, else what the variable ``RITORNELLO_SOUNDFONT`` names, else None: the package's own piano plays.

    Raises:
        RitornelloError: if what is named is no SoundFont.
    """
    if named is not None:
        return _checked(named)
    in_variable = os.environ.get(VARIABLE)
    return _checked(Path(in_variable), f" (named by {VARIABLE})") if in_variable else None


def _checked(path: Path, by: str = "") -> Path:
    try:
        with path.open("rb") as file:
            head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"sfbk":
            return path
    except OSError as error:
        raise RitornelloError(f"{path}{by}: cannot be read ({error.strerror}); name a SoundFont") from None
    raise RitornelloError(f"{path}{by}: is no SoundFont; name a file that ends in .sf2 or .sf3")


def check_soundfont(soundfont: Path | None) -> None:
    """Raises RitornelloError if what plays it is not installed, or cannot play this SoundFont."""
    with _opened(soundfont):
        pass


def check_seconds(seconds: float) -> None:
    """Raises RitornelloError for more music than a WAV file can hold."""
    if seconds > MAX_WAV_S:
        raise RitornelloError(
            f"a WAV file holds {MAX_WAV_S / 60:.0f} minutes at most, and this is {seconds / 60:.0f}; play less of it"
        )


def _sound(piece: Piece, synth: Synth) -> Iterator[Frames]:
    """(F, 2) blocks of sound, from time 0 to where the last note has died away."""
    now, peak = 0, 0.0
    last_strike: dict[int, int] = {}
    for event in _events(piece):
        for block in synth.render((event.at - now) * GRID_FRAMES):
            peak = max(peak, float(np.abs(block).max()))
            yield block
        now, pitch = event.at, int(piece.pitch[event.note])
        if event.struck:
            last_strike[pitch] = event.note
            synth.strike(pitch, int(piece.velocity[event.note]))
        elif last_strike[pitch] == event.note:  # else the key was struck again, and a release would end that note
            synth.release(pitch)
    for _ in range(int(MAX_TAIL_S * FRAMES_PER_S / TAIL_FRAMES)):
        for block in synth.render(TAIL_FRAMES):
            yield block
        if float(np.abs(block).max()) <= max(SILENCE * peak, NOTHING):
            return
        peak = max(peak, float(np.abs(block).max()))


def _events(piece: Piece) -> list[Event]:
    starts, ends = _grid(piece.onset), _grid(piece.sounding_offset())
    strikes = [Event(at, True, note) for note, at in enumerate(starts)]
    # A note that lasts no time is released after its strike; FluidSynth then lets it sound for 10 ms.
    releases = [Event(max(end, start + 1), False, note) for note, (start, end) in enumerate(zip(starts, ends))]
    return sorted(strikes + releases)


def _grid(times_s: Seconds) -> list[int]:
    return np.rint(times_s * FRAMES_PER_S / GRID_FRAMES).astype(np.int64).tolist()


def _levelled(samples: Frames, peak: float) -> bytes:
    scale = LOUDEST * 32767 / peak if peak > NOTHING else 0.0
    return np.rint(samples * scale).astype("<i2").tobytes()


class _FluidSynth:
    """FluidSynth's piano; made by `_opened`."""

    def __init__(self, library: Any, synth: Any) -> None:
        self._synth = synth
        # pyfluidsynth itself only reads 16-bit samples, which clip where the music is loud.
        names = ("synth", "len", "lout", "loff", "lincr", "rout", "roff", "rincr")
        types = (c_void_p, c_int, c_void_p, c_int, c_int, c_void_p, c_int, c_int)
        self._write = library.cfunc("fluid_synth_write_float", c_int, *((n, t, 1) for n, t in zip(names, types)))

    def strike(self, pitch: int, velocity: int) -> None:
        self._synth.noteon(0, pitch, velocity)

    def release(self, pitch: int) -> None:
        self._synth.noteoff(0, pitch)

    def render(self, frames: int) -> Iterator[Frames]:
        for begin in range(0, frames, BLOCK_FRAMES):
            block = np.empty((min(BLOCK_FRAMES, frames - begin), 2), np.float32)
            out = block.ctypes.data
            self._write(self._synth.synth, len(block), out, 0, 2, out, 1, 2)
            yield block


@contextmanager
def _opened(soundfont: Path | None) -> Iterator[Synth]:
    """The package's piano, or a synthesiser with this SoundFont's on channel 0."""
    if soundfont is None:
        yield Sampler()
        return
    library = _library()
    synth = library.Synth(gain=GAIN, samplerate=float(FRAMES_PER_S), channels=16, **SETTINGS)
    try:
        with _hushed():
            number = library.fluid_synth_sfload(synth.synth, os.fsencode(soundfont), 0)
        if number == library.FLUID_FAILED:
            raise RitornelloError(f"{soundfont}: this SoundFont is damaged or cannot be read; get it anew, or another")
        if all(synth.program_select(0, number, 0, program) == library.FLUID_FAILED for program in range(128)):
            raise RitornelloError(f"{soundfont}: this SoundFont holds no instrument in bank 0; name another")
        yield _FluidSynth(library, synth)
    finally:
        synth.delete()


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the process's standard error, on which a library below FluidSynth complains of damaged files."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _library() -> Any:
    """pyfluidsynth, with FluidSynth's messages off: what concerns the user is said in one line here."""
    try:
        with redirect_stdout(StringIO()):  # in continuous integration it prints where it found the library
            import fluidsynth
    except ModuleNotFoundError:
        raise RitornelloError("--soundfont needs the package pyfluidsynth; pip install 'ritornello[sound]'") from None
    except (ImportError, OSError):
        how = LIBRARY.get(sys.platform, LIBRARY["linux"])
        raise RitornelloError(f"--soundfont needs the FluidSynth library, which is not here; {how}") from None
    silence = fluidsynth.cfunc(
        "fluid_set_log_function", c_void_p, ("level", c_int, 1), ("function", c_void_p, 1), ("data", c_void_p, 1)
    )
    for level in QUIET_LEVELS:
        silence(level, None, None)
    return fluidsynth
