"""A parallel map over files, in order, for `corpus` and `reports`: a pool of processes and what it takes to fill it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from ritornello.errors import RitornelloError

Item = TypeVar("Item")
Returned = TypeVar("Returned")

WAITING_ITEMS = 16  # for each process: taken from ``items`` ahead of the one whose result comes next


@dataclass(frozen=True)
class Failure:
    """Why one item gave no result, in one line."""

    reason: str


def map_files(
    function: Callable[[Item], Returned], items: Iterable[Item], *, workers: int | None = None
) -> Iterator[tuple[int, Returned | Failure]]:
    """Yields (index, result) for every item, in order; items are taken as they are needed, so they may be a stream.

    Args:
        function: a module's function; it, the items and the results are pickled.
        items: what to map; a `RitornelloError` or any other exception becomes a `Failure`.
        workers: processes; None is one for each processor this process may use.

    Raises:
        RitornelloError: if worker processes cannot start, or one dies.
    """
    workers = workers or usable_processors()
    waiting: deque[tuple[int, Any]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        for index, item in enumerate(items):
            waiting.append((index, pool.submit(_outcome, function, item)))
            if len(waiting) >= WAITING_ITEMS * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for index, future in waiting:
            yield index, future.result()
    except BrokenProcessPool:
        raise RitornelloError(
            "worker processes cannot start, or one was killed; in a script, put the call under "
            "if __name__ == '__main__':"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def usable_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_parent() -> None:
    """Ends this process when its parent is killed, whose queue it would otherwise wait at for ever."""

    def wait() -> None:
        multiprocessing.parent_process().join()  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _outcome(function: Callable[[Item], Returned], item: Item) -> Returned | Failure:
    try:
        return function(item)
    except RitornelloError as error:
        return Failure(str(error))
    except Exception as error:  # one odd file must not stop a corpus; the reason is kept in its report
        return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
