"""A run's folder: one process's while it trains, what it holds then, and its log."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ritornello.checkpoint import MANIFEST, Checkpoint, load_checkpoint
from ritornello.errors import RitornelloError
from ritornello.files import write_whole
from ritornello.training.recipes import Recipe, flat, with_defaults

WAIT_S = 10.0  # for another process to leave the folder: one that was asked to stop is saving
Tracker = Callable[[int, Mapping[str, float]], None]
"""Called with a step and its figures, as the log has them: ``tokens`` predicted and ``seconds`` so far, and ``nats``
per token of the latest steps or ``validation`` nats per token."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """The folder, made if need be, to this process alone; the system gives it back however the process ends.

    A folder that was made here and is still empty at the end is removed.

    Raises:
        RitornelloError: if another process trains there, or it cannot be made.
    """
    lock, is_new = FileLock(run / ".lock", timeout=WAIT_S), not run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RitornelloError(f"{run}: another process trains there; wait for it or name another folder") from None
    except OSError as error:
        raise RitornelloError(f"{run}: cannot be made ({error.strerror}); name another folder") from None
    try:
        yield
    finally:
        if is_new and [path.name for path in run.iterdir()] == [".lock"]:
            with suppress(OSError):
                (run / ".lock").unlink()
                run.rmdir()
        lock.release()


def check_unused(run: Path) -> None:
    """Refuses a folder that holds a run; ask with it `locked`."""
    if any((run / name / MANIFEST).exists() for name in ("last", "best")):
        raise RitornelloError(f"{run}: holds a run already; add --resume to go on with it, or name another folder")


def resumable(run: Path, recipe: Recipe) -> Checkpoint:
    """The folder's last checkpoint; ask with it `locked`. Raises RitornelloError if it is of another recipe."""
    last = load_checkpoint(run / "last")
    before, now = flat(with_defaults(last.run["recipe"])), flat(recipe.settings())
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            was = f"was trained with {name} = {before.get(name)}, not {now.get(name)}"
            raise RitornelloError(f"{run}: {was}; resume it unchanged")
    return last


@contextmanager
def interruptible(*, at_once: bool = True) -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop; a second Ctrl-C stops ``at_once``, or fills it further."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked and at_once:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: whoever runs us handles signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Journal:
    """``log.jsonl`` and ``tensorboard/`` of a run's folder.

    Events of steps after ``after_step`` are dropped: a resumed run writes them again.
    """

    def __init__(self, run: Path, *, after_step: int, trackers: Sequence[Tracker] = ()) -> None:
        self._path, self._trackers = run / "log.jsonl", trackers
        earlier = [line for line in read_journal(run) if line["step"] <= after_step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in earlier))
        self._board = _tensorboard(run / "tensorboard", after_step)

    def write(self, step: int, **values: float) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RitornelloError(f"{self._path}: cannot be written ({error.strerror}); free some space") from None
        for tracker in self._trackers:
            tracker(step, values)

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_journal(run: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _tensorboard(folder: Path, after_step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder), purge_step=after_step + 1)
    except UnicodeEncodeError:  # TensorBoard takes no name that is no text; the log does
        return None
    except OSError as error:
        raise RitornelloError(f"{folder}: cannot be written ({error.strerror}); free some space") from None
