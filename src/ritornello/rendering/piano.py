"""The piano that comes with the package, mixed in NumPy: two layers of 30 recorded notes, those of the studio's page.

Conventions: F frames of two float32 samples. The page's `piano.js` plays the same recordings by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError

Frames = NDArray[np.float32]

RECORDINGS = Path(__file__).parents[1] / "studio/page/piano"
FRAMES_PER_S = 44_100
LOWEST, STEP, NOTES = 21, 3, 30  # A0 to C8, a minor third apart
LETTERS = {0: "C", 3: "Ds", 6: "Fs", 9: "A"}
LOUD_FROM = 72
"""velocity from which on the loud layer plays"""
SOFT_GAIN = 1.72
"""by how much the loud layer is louder: the median over all notes"""
CURVE, FULL = 1.2, 96
"""a note of velocity v is (v / FULL) ** CURVE times as loud as the loud layer"""
ATTACK, LEAD_FRAMES = 0.003, 88
"""where a recording begins, and how much of it is kept before that"""
DAMPED_S, AGAIN_S, RING_S, UNDAMPED = 0.07, 0.03, 0.6, 90
"""in what time a string that is let go falls to 1/e: damped, struck again, and without a damper, above that pitch"""
SILENCE = 1e-5


@dataclass
class Voice:
    """A string that sounds."""

    wave: Frames
    pitch: int
    gain: float
    place: int = 0
    released: bool = False
    fall_s: float = np.inf

    def add_to(self, block: Frames) -> bool:
        """Adds what sounds next to a block (F,); whether there is more."""
        part = self.wave[self.place : self.place + len(block)]
        self.place += len(part)
        if self.fall_s == np.inf:
            block[: len(part)] += part * np.float32(self.gain)
        else:
            falling = self.gain * np.exp(-np.arange(1, len(part) + 1) / (self.fall_s * FRAMES_PER_S))
            block[: len(part)] += part * falling.astype(np.float32)
            self.gain *= float(np.exp(-len(block) / (self.fall_s * FRAMES_PER_S)))
        return self.place < len(self.wave) and self.gain > SILENCE


class Sampler:
    """The piano's keys; the pedal is in when they are let go. Raises RitornelloError where miniaudio is missing."""

    def __init__(self) -> None:
        _decoder()
        self._voices: list[Voice] = []

    def strike(self, pitch: int, velocity: int) -> None:
        for voice in self._voices:
            if voice.pitch == pitch:
                voice.released, voice.fall_s = True, AGAIN_S
        soft = velocity < LOUD_FROM
        gain = (velocity / FULL) ** CURVE * (SOFT_GAIN if soft else 1)
        self._voices.append(Voice(_string(pitch, "soft" if soft else "loud"), pitch, gain))

    def release(self, pitch: int) -> None:
        for voice in self._voices:
            if voice.pitch == pitch and not voice.released:
                voice.released, voice.fall_s = True, RING_S if pitch > UNDAMPED else DAMPED_S

    def render(self, frames: int) -> Iterator[Frames]:
        for begin in range(0, frames, FRAMES_PER_S):
            block = np.zeros(min(FRAMES_PER_S, frames - begin), np.float32)
            self._voices = [voice for voice in self._voices if voice.add_to(block)]
            yield np.stack([block, block], axis=1)


@cache
def _string(pitch: int, layer: str) -> Frames:
    """A key's sound (F,), from the nearest recorded one."""
    nearest = LOWEST + STEP * min(NOTES - 1, max(0, round((pitch - LOWEST) / STEP)))
    wave = _recorded(nearest, layer)
    if pitch == nearest:
        return wave
    places = np.arange(0, len(wave) - 1, 2 ** ((pitch - nearest) / 12))
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


@cache
def _recorded(pitch: int, layer: str) -> Frames:
    miniaudio = _decoder()
    path = RECORDINGS / f"{LETTERS[pitch % 12]}{pitch // 12 - 1}-{layer}.mp3"
    form = miniaudio.SampleFormat.FLOAT32
    decoded = miniaudio.decode(path.read_bytes(), output_format=form, nchannels=1, sample_rate=FRAMES_PER_S)
    wave = np.array(decoded.samples, np.float32)
    return wave[max(0, int(np.argmax(np.abs(wave) > ATTACK)) - LEAD_FRAMES) :]


def _decoder() -> Any:
    try:
        import miniaudio
    except ModuleNotFoundError:
        raise RitornelloError(
            "--wav needs the package miniaudio; pip install 'ritornello[sound]', or miniaudio itself on Linux ARM"
        ) from None
    return miniaudio
