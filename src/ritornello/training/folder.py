"""A run's folder: one process's while it trains, and asked only then what it holds."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ritornello.checkpoint import MANIFEST, Checkpoint, load_checkpoint
from ritornello.errors import RitornelloError
from ritornello.training.recipes import Recipe, flat, with_defaults

WAIT_S = 10.0  # for another process to leave the folder: one that was asked to stop is saving


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
def interruptible() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if asked:
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
