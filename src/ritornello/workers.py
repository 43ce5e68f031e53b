"""A parallel map in order: a pool of processes, and what it takes to fill it."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from ritornello.errors import RitornelloError

Item = TypeVar("Item")
Returned = TypeVar("Returned")

WAITING_ITEMS = 16  # for each process: taken from ``items`` ahead of the one whose result comes next


@dataclass(frozen=True)
class Failure:
    """Why one item gave no result, in one line."""

    reason: str


def map_items(
    function: Callable[[Item], Returned], items: Iterable[Item], *, workers: int | None = None
) -> Iterator[Returned | Failure]:
    """Yields the result of every item, in order; items are taken as they are needed, so they may be a stream.

    Args:
        function: a module's function; it, the items and the results are pickled.
        items: what to map; a `RitornelloError` or any other exception becomes a `Failure`.
        workers: processes; 1 is this one, None one for each processor this process may use.

    Raises:
        RitornelloError: if worker processes cannot start, or one dies.
    """
    workers, work = workers or usable_processors(), partial(_outcome, function)
    if workers == 1:
        yield from map(work, items)
        return
    waiting: deque[Any] = deque()
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=end_with_parent)
    try:
        with unbroken():
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= WAITING_ITEMS * workers:
                    yield waiting.popleft().result()
            for future in waiting:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def unbroken() -> Iterator[None]:
    """Raises RitornelloError where a pool is found to have lost a process."""
    try:
        yield
    except BrokenProcessPool:
        raise RitornelloError(
            "worker processes cannot start, or one was killed; is there enough memory? Calls from standard input must "
            "become a file, and in a script, put the call under if __name__ == '__main__':"
        ) from None


def usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_resident_bytes() -> int | None:
    """The most memory that this process has had resident; None where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is in KiB


def end_with_parent(end: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Ends this process when its parent is killed, whose queue it would otherwise wait at for ever.

    ``end`` is called then, in a thread of its own.
    """

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            end()

    threading.Thread(target=wait, daemon=True).start()


def _outcome(function: Callable[[Item], Returned], item: Item) -> Returned | Failure:
    try:
        return function(item)
    except RitornelloError as error:
        return Failure(str(error))
    except Exception as error:  # one odd file must not stop a corpus or a comparison; the reason is kept
        return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
