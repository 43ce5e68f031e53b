"""Claims about sound. The SoundFont is made here: one looped sine that sounds at 440 Hz when A4 is played.

What is heard is measured in the WAV file: its spectrum, its level over time, where notes begin.
"""

from __future__ import annotations

import ctypes.util
import json
import struct
import sys
import time
import tracemalloc
import wave
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from command import Run, assert_refused
from conftest import full_disk, one_line

from ritornello.errors import RitornelloError
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.rendering.wav import check_seconds, check_soundfont, find_soundfont
from ritornello.rendering.wav import write as write_wav

RATE = 44_100
FULL_SCALE = 32_768
FALLING_S = 1.0  # a released note's way to silence (100 dB)


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def soundfont(*, bank: int = 0, program: int = 0, presets: int = 1) -> bytes:
    """SoundFont 2.01 (specification, section 7): a sample of 100 frames a period at 44,000 Hz, root key 69."""
    frames, loop = 8_000, (1_000, 7_000)
    sine = np.sin(2 * np.pi * np.arange(frames) / 100) * 20_000
    samples = np.r_[sine, np.zeros(46)].astype("<i2").tobytes()
    pairs = "<HH"
    timecents = int(1200 * np.log2(FALLING_S))
    headers = [(b"Sine", program, bank, 0)] * presets + [(b"EOP", 0, 0, 1)]
    tables = {
        b"phdr": b"".join(struct.pack("<20sHHHIII", *header, 0, 0, 0) for header in headers),
        b"pbag": struct.pack(pairs, 0, 0) + struct.pack(pairs, 1, 0),
        b"pmod": bytes(10),
        b"pgen": struct.pack(pairs, 41, 0) + bytes(4),  # instrument 0
        b"inst": struct.pack("<20sH", b"Sine", 0) + struct.pack("<20sH", b"EOI", 1),
        b"ibag": struct.pack(pairs, 0, 0) + struct.pack(pairs, 3, 0),
        b"imod": bytes(10),
        # release of the volume envelope, looped, sample 0
        b"igen": struct.pack("<Hh", 38, timecents) + struct.pack("<HHHH", 54, 1, 53, 0) + bytes(4),
        b"shdr": struct.pack("<20sIIIIIBbHH", b"Sine", 0, frames, *loop, 44_000, 69, 0, 0, 1)
        + struct.pack("<20s26x", b"EOS"),
    }
    about = chunk(b"ifil", struct.pack(pairs, 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"Sine\0\0")
    lists = [
        b"INFO" + about,
        b"sdta" + chunk(b"smpl", samples),
        b"pdta" + b"".join(chunk(name, table) for name, table in tables.items()),
    ]
    return chunk(b"RIFF", b"sfbk" + b"".join(chunk(b"LIST", part) for part in lists))


@pytest.fixture(scope="session")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SoundFont; without FluidSynth the tests that hear are skipped."""
    pytest.importorskip("fluidsynth", exc_type=ImportError)
    path = tmp_path_factory.mktemp("soundfonts") / "sine.sf2"
    path.write_bytes(soundfont())
    return path


def heard(path: Path) -> np.ndarray:
    """(frames, 2) samples of a WAV file, full scale 1."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        assert len(samples) == file.getnframes()
    return samples / FULL_SCALE


def played(notes: list[tuple[float, float, int, int]], sine: Path, tmp_path: Path, **rest: object) -> np.ndarray:
    path = tmp_path / "heard.wav"
    write_wav(Piece.from_notes(notes, **rest), path, sine)
    return heard(path)


def level(sound: np.ndarray, begin_s: float, end_s: float) -> float:
    return float(np.sqrt(np.mean(sound[round(begin_s * RATE) : round(end_s * RATE)] ** 2)))


@pytest.mark.parametrize(("pitch", "hertz"), [(45, 110.0), (69, 440.0), (70, 466.16), (93, 1760.0)])
def test_a_key_sounds_at_its_frequency_in_both_channels(sine, tmp_path, pitch, hertz):
    sound = played([(0.0, 2.0, pitch, 80)], sine, tmp_path)
    for channel in sound[: 2 * RATE].T:
        spectrum = np.abs(np.fft.rfft(channel * np.hanning(len(channel)), 1 << 19))
        assert np.fft.rfftfreq(1 << 19, 1 / RATE)[spectrum.argmax()] == pytest.approx(hertz, rel=0.002)


def test_loudness_grows_with_velocity(sine, tmp_path):
    velocities = [10, 30, 50, 70, 90, 110, 127]
    sound = played([(2.0 * i, 2.0 * i + 0.5, 69, v) for i, v in enumerate(velocities)], sine, tmp_path)
    levels = np.array([level(sound, 2 * i + 0.1, 2 * i + 0.4) for i in range(len(velocities))])
    assert np.all(levels[1:] > 1.2 * levels[:-1])


def test_notes_begin_at_their_onsets_however_late(sine, tmp_path):
    onsets = [0.0, 2.1037, 4.5, 7.23456, 60.00073]
    sound = np.abs(played([(t, t + 0.2, 81, 100) for t in onsets], sine, tmp_path)).max(axis=1)
    for onset in onsets:
        begin = max(round((onset - 0.2) * RATE), 0)
        first = begin + int(np.argmax(sound[begin:] > 0.1 * sound.max()))
        assert -0.001 < first / RATE - onset < 0.003  # half of FluidSynth's block, and the attack


def test_a_key_let_go_falls_silent_and_the_pedal_holds_it(sine, tmp_path):
    note = [(0.0, 0.5, 69, 80), (4.0, 4.1, 45, 80)]
    dry = played(note, sine, tmp_path)
    held = played(note, sine, tmp_path, pedals=[(0.2, 2.0)])
    assert level(dry, 1.4, 1.9) < 0.02 * level(dry, 0.1, 0.4)
    assert level(held, 1.4, 1.9) > 0.9 * level(held, 0.1, 0.4)
    assert level(held, 3.0, 3.5) < 0.02 * level(held, 0.1, 0.4)


def test_a_key_struck_again_is_not_ended_by_its_first_release(sine, tmp_path):
    sound = played([(0.0, 2.0, 69, 80), (1.0, 4.0, 69, 80)], sine, tmp_path)
    assert level(sound, 3.0, 3.9) > 0.9 * level(sound, 0.2, 0.9)


def test_two_equal_strikes_sound_as_long_as_the_longer(sine, tmp_path):
    sound = played([(0.0, 1.0, 69, 80), (0.0, 3.0, 69, 80), (5.0, 5.1, 45, 80)], sine, tmp_path)
    assert level(sound, 2.0, 2.9) > 0.4 * level(sound, 0.2, 0.9)
    assert level(sound, 4.4, 4.9) < 0.02 * level(sound, 0.2, 0.9)


@pytest.mark.parametrize("note", [(1.0, 1.0, 69, 80), (1.0, 2.0, 69, 1)])
def test_the_shortest_and_the_softest_note_are_heard(sine, tmp_path, note):
    sound = played([note], sine, tmp_path)
    assert level(sound, 1.0, 1.05) > 0.01
    assert level(sound, 0.0, 0.9) < 0.01


def test_nothing_clips_and_loud_is_to_soft_what_it_was(sine, tmp_path):
    soft = [(0.0, 1.0, 69, 40), (3.0, 4.0, 69, 80)]
    both = played([*soft, *((6.0, 7.0, pitch, 127) for pitch in range(30, 90))], sine, tmp_path)
    alone = played(soft, sine, tmp_path)
    for sound in (both, alone):
        assert np.abs(sound).max() == pytest.approx(10 ** (-1 / 20), abs=2 / FULL_SCALE)
        assert np.sum(np.abs(sound) > 0.999 * np.abs(sound).max()) < 0.02 * len(sound)
    ratio = [level(sound, 3.2, 3.8) / level(sound, 0.2, 0.8) for sound in (both, alone)]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.03)
    assert level(both, 6.2, 6.8) > 10 * level(both, 3.2, 3.8)


def test_the_last_sound_dies_away_before_the_file_ends(sine, tmp_path):
    sound = played([(0.0, 1.0, 69, 100)], sine, tmp_path)
    assert 1.3 < len(sound) / RATE < 1 + FALLING_S + 2
    loud = level(sound, 0.1, 0.9)
    assert level(sound, 1.0, 1.1) > 0.1 * loud
    assert np.abs(sound[-RATE // 20 :]).max() < 1e-3 * loud


def test_a_piece_without_notes_is_a_moment_of_silence(sine, tmp_path):
    sound = played([], sine, tmp_path)
    assert 0 < len(sound) < RATE
    assert not sound.any()


def test_memory_does_not_grow_with_the_piece(sine, tmp_path):
    def peak_bytes(seconds: float) -> int:
        tracemalloc.start()
        played_for = Piece.from_notes([(0.0, seconds, 69, 80)])
        write_wav(played_for, tmp_path / "long.wav", sine)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(100) < peak_bytes(10) + 100_000


def test_progress_rises_to_the_length_of_the_music(sine, tmp_path):
    told: list[float] = []
    write_wav(Piece.from_notes([(0.0, 3.0, 69, 80)]), tmp_path / "heard.wav", sine, progress=told.append)
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == 3.0


def test_the_first_instrument_plays_where_there_is_no_piano(sine, tmp_path):
    other = tmp_path / "other.sf2"
    other.write_bytes(soundfont(program=17))
    assert level(played([(0.0, 1.0, 69, 80)], other, tmp_path), 0.1, 0.9) > 0.1
    for useless in (soundfont(presets=0), soundfont(bank=3)):
        other.write_bytes(useless)
        with pytest.raises(RitornelloError, match=r"other\.sf2: .* another"):
            check_soundfont(other)


# ---- bad SoundFonts, and finding a good one ----


@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.02])
def test_a_truncated_soundfont_gets_one_line_and_no_noise(sine, tmp_path, capfd, kept):
    whole, broken = soundfont(), tmp_path / "broken.sf2"
    broken.write_bytes(whole[: int(len(whole) * kept)])
    with one_line(broken, "damaged"):
        check_soundfont(find_soundfont(broken))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", ["folder", "missing", "empty", "sfz", "wav"])
def test_what_is_no_soundfont_gets_one_line(tmp_path, what):
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes({"empty": b"", "sfz": b"<region> sample=a.wav", "wav": b"RIFF\x24\0\0\0WAVEfmt "}[what])
    with one_line(path, "name a"):
        find_soundfont(path)


@pytest.fixture
def bare(tmp_path, monkeypatch) -> Path:
    """A folder, and no SoundFont named."""
    monkeypatch.delenv("RITORNELLO_SOUNDFONT", raising=False)
    return tmp_path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(soundfont())
    return path


def test_the_file_named_comes_first_then_the_variable_then_the_piano_that_comes_along(bare, monkeypatch):
    assert find_soundfont() is None
    monkeypatch.setenv("RITORNELLO_SOUNDFONT", str(put(bare / "variable.sf2")))
    assert find_soundfont() == bare / "variable.sf2"
    assert find_soundfont(put(bare / "named.bank")) == bare / "named.bank"
    (bare / "variable.sf2").unlink()
    with pytest.raises(RitornelloError, match="RITORNELLO_SOUNDFONT"):
        find_soundfont()


# ---- the piano that comes along ----


@pytest.fixture
def alone(tmp_path):
    """Plays notes on it: the sound of one channel."""
    pytest.importorskip("miniaudio")
    return lambda notes, **rest: played(notes, None, tmp_path, **rest)[:, 0]


@pytest.mark.parametrize(("pitch", "hertz"), [(45, 110.0), (58, 233.08), (69, 440.0), (70, 466.16), (92, 1661.2)])
def test_its_keys_have_their_pitch_also_between_recorded_ones(alone, pitch, hertz):
    sound = alone([(0.0, 2.0, pitch, 80)])[: 2 * RATE]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 19))
    frequencies = np.fft.rfftfreq(1 << 19, 1 / RATE)
    near = (frequencies > hertz * 0.8) & (frequencies < hertz * 1.25)
    peak = frequencies[near][spectrum[near].argmax()]
    assert 1200 * abs(np.log2(peak / hertz)) < 12  # cents: pianos are tuned a little apart at their ends
    assert spectrum[near].max() > 0.1 * spectrum.max()


def test_its_loudness_grows_with_velocity_and_has_no_step_between_its_layers(alone):
    velocities = [20, 40, 60, 71, 72, 90, 120]
    sound = alone([(2 * n, 2 * n + 1, 60, velocity) for n, velocity in enumerate(velocities)])
    levels = [level(sound, 2 * n, 2 * n + 1) for n in range(len(velocities))]
    assert levels == sorted(levels)
    assert levels[4] / levels[3] < 1.5
    assert levels[-1] / levels[0] > 5


def test_its_notes_begin_and_end_when_they_should(alone):
    sound = alone([(0.5, 1.0, 60, 90), (3.0, 3.5, 60, 90), (8.0, 8.2, 64, 90)], pedals=[(2.9, 5.0)])
    assert level(sound, 0, 0.495) == 0
    assert level(sound, 0.5, 0.52) > 0.01
    assert level(sound, 1.7, 2.7) < level(sound, 0.5, 1) / 1_000
    assert level(sound, 4.5, 5) > level(sound, 3, 3.5) / 50  # the pedal holds it, while it dies away
    assert level(sound, 5.7, 7) < level(sound, 3, 3.5) / 1_000
    assert level(sound, 7, 7.99) < level(sound, 8, 8.2) / 1_000


def test_it_plays_faster_than_the_music_sounds(alone):
    begun = time.process_time()
    alone([(n / 20, n / 20 + 2, 40 + n * 7 % 50, 40 + n % 60) for n in range(600)])  # 30 s, forty keys at once
    assert time.process_time() - begun < 30


# ---- what may be missing or full ----


def test_without_the_package_or_the_library_one_line_says_what_to_install(tmp_path, monkeypatch):
    put(tmp_path / "sine.sf2")
    monkeypatch.delenv("HOMEBREW_PREFIX", raising=False)
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    with one_line("pip install"):
        check_soundfont(tmp_path / "sine.sf2")
    monkeypatch.delitem(sys.modules, "fluidsynth")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with one_line("FluidSynth library"):
        check_soundfont(tmp_path / "sine.sf2")


@pytest.mark.parametrize("place", ["missing/heard.wav", "file/heard.wav", "folder"])
def test_a_place_that_cannot_be_written_gives_one_line_and_leaves_nothing(sine, tmp_path, place):
    (tmp_path / "file").write_text("here")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with one_line(tmp_path / place, "cannot be written"):
        write_wav(Piece.from_notes([(0.0, 0.1, 69, 80)]), tmp_path / place, sine)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("limit_bytes", [50_000, 200_000])
def test_a_full_disk_leaves_the_older_sound(sine, tmp_path, limit_bytes):
    path = tmp_path / "heard.wav"
    path.write_bytes(b"old")
    with full_disk(limit_bytes), one_line("heard.wav: cannot be written"):
        write_wav(Piece.from_notes([(0.0, 1.0, 69, 80)]), path, sine)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_more_than_a_wav_file_holds_is_refused():
    check_seconds(6.75 * 3600)
    with pytest.raises(RitornelloError, match="405 minutes"):
        check_seconds(6.77 * 3600)


# ---- the command line. A model that is not there is only missed when all else is well ----

NO_MODEL = ("--model", "not-there")


@pytest.fixture
def mine(tmp_path) -> Path:
    Piece.from_notes([(0.0, 1.0, 60, 64)]).write(tmp_path / "mine.mid")
    return tmp_path / "mine.mid"


def test_a_missing_soundfont_is_missed_before_anything_is_played(command: Run, bare, mine):
    wav = ("--wav", bare / "new.wav", "--soundfont", bare / "missing.sf2", *NO_MODEL)
    assert_refused(command("generate", bare / "new.mid", *wav), "missing.sf2", "SoundFont")
    assert_refused(command("continue", mine, bare / "new.mid", *wav), "missing.sf2", "SoundFont")


def test_sound_too_long_or_without_a_file_is_refused_before_anything_is_played(command: Run, bare, mine):
    out, good = bare / "new.mid", put(bare / "sine.sf2")
    assert_refused(command("generate", out, "--minutes", "406", "--wav", bare / "a.wav", *NO_MODEL), "405 minutes")
    assert_refused(command("continue", mine, out, "--soundfont", good, *NO_MODEL), good, "--wav")


NAMES = ("IN", "OUT", "--soundfont", "--png", "--svg", "--wav")


@pytest.mark.parametrize(("first", "second"), [(a, b) for a, b in combinations(NAMES, 2) if b in NAMES[3:]])
def test_no_file_is_named_twice(command: Run, bare, mine, monkeypatch, first, second):
    monkeypatch.chdir(bare)
    files = {"OUT": "new.mid", "--png": "a", "--svg": "b", "--wav": "c", "--soundfont": str(put(bare / "sine.sf2"))}
    twice = Path(mine.name if first == "IN" else files[first])
    options = {**files, second: str(bare / "." / twice)}
    out = options.pop("OUT")
    before = sorted(bare.rglob("*"))
    outcome = command("continue", mine, out, *NO_MODEL, *(word for pair in options.items() for word in pair))
    assert_refused(outcome, twice.name, "twice", "another file")
    assert sorted(bare.rglob("*")) == before


def test_a_sound_that_could_not_be_written_is_refused_before_anything_is_played(command: Run, bare):
    out, wav = bare / "new.mid", bare / "missing/new.wav"
    assert_refused(command("generate", out, "--wav", wav, *NO_MODEL), wav, "folder")


def test_generate_and_continue_write_and_name_what_was_asked_for(command: Run, sine, model, tmp_path):
    names = ("png", "svg", "wav")
    asked = [word for name in names for word in (f"--{name}", tmp_path / f"new.{name}")]
    options = (*asked, "--soundfont", sine, "--model", model, "--minutes", "0.1", "--seed", "5", "--json")
    for verb in (("generate",), ("continue", tmp_path / "first.mid")):
        outcome = command(*verb, tmp_path / "new.mid", *options)
        assert outcome.code == 0, outcome
        figures = json.loads(outcome.out)
        assert figures["file"] == str(tmp_path / "new.mid")
        assert figures["soundfont"] == str(sine)
        for name in names:
            assert figures[name] == str(tmp_path / f"new.{name}")
            assert Path(figures[name]).stat().st_size > 0
        piece = read_midi(tmp_path / "new.mid")
        assert 0 < len(heard(tmp_path / "new.wav")) / RATE - float(piece.sounding_offset().max()) < 5
        if verb == ("generate",):
            (tmp_path / "new.mid").rename(tmp_path / "first.mid")
    outcome = command("generate", tmp_path / "plain.mid", "--model", model, "--minutes", "0.05", "--json")
    assert not {"png", "svg", "wav", "soundfont"} & json.loads(outcome.out).keys()
