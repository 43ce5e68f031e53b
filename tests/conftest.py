"""Fixtures: the real performances, and small made-up pieces."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command import SIZES, Outcome, Run, song

from ritornello.errors import RitornelloError
from ritornello.notes import Piece

SLOW = {  # files of tests that --fast leaves out
    *("bench", "cli", "cli_places", "codec_asap", "continuing", "corpus", "duet", "engine", "engine_law"),
    *("extensions", "fast", "law", "law_perceivers", "local_browser", "local_engine", "maestro", "metrics_asap"),
    *("metrics_cli", "midi_mending", "new_family", "notebooks", "perceivers", "perceivers_training"),
    *("performing", "ports", "ranks", "small_engine", "sound", "steering", "studies", "studies_perceivers"),
    *("studies_training", "studio_page", "studio_server", "takes", "training", "training_stops"),
    "workers",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="leave out files that take long: those that train, play, start programs"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    slow = collection_path.stem.removeprefix("test_") in SLOW
    return True if slow and config.getoption("fast") else None


@pytest.fixture(scope="session")
def asap() -> Path:
    """The folder of the ASAP performances; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("RITORNELLO_ASAP", Path(__file__).parents[2] / "shared/data/asap"))
    if not (folder / "asap-performances.csv").is_file():
        pytest.skip("the ASAP performances are not here; set RITORNELLO_ASAP to their folder")
    return folder


def made_up_piece(rng: np.random.Generator, *, notes: int = 200, seconds: float = 60.0) -> Piece:
    """Random notes with a pedal: no music, but every kind of event."""
    onset = np.sort(rng.uniform(0, seconds, notes))
    offset = onset + rng.exponential(0.4, notes)
    down = np.sort(rng.uniform(0, seconds, 10))
    pedals = np.stack([down, down + rng.exponential(1.0, 10)], axis=1)
    return Piece(onset, offset, rng.integers(30, 90, notes), rng.integers(1, 128, notes), pedals)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command ``ritornello`` with any arguments, in this process, on a console wide enough to break no line."""
    from ritornello import cli

    for stream in (cli.console, cli.output):
        monkeypatch.setattr(stream, "_width", 400)

    def run_command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ritornello", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        code = stopped.value.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def study(command: Run) -> Run:
    """The verb ``study``."""
    return partial(command, "study")


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """The system itself fails the write by which a file would grow beyond the limit."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def one_line(*naming: object) -> Iterator[None]:
    """A `RitornelloError` of one line that names each of ``naming``."""
    with pytest.raises(RitornelloError) as refusal:
        yield
    message = str(refusal.value)
    assert "\n" not in message
    for name in naming:
        assert str(name) in message


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that knows nothing."""
    from definition import tiny_model
    from tiny import save_model

    return save_model(tiny_model(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a corpus of songs of `SIZES`, made without a pool of processes."""
    from tiny import write_corpus

    from ritornello.codec import encode

    pieces = {split: [encode(song(notes)) for notes in sizes] for split, sizes in SIZES.items()}
    return write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", pieces).path
