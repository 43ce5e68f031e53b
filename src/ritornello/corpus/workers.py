"""A parallel map over files that no file can stop: one that crashes or hangs its process costs only itself.

Each worker is a spawned process with a pipe. It gets a small batch and reports after every item, so when it dies or
falls silent, the item to blame is the first one without a report; the rest of its batch goes to a fresh worker.

The function goes through that pipe too, once the worker runs. Among a process's arguments it could make them larger
than a pipe holds, and where such a process dies before it has read them, multiprocessing waits for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from ritornello.errors import RitornelloError

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_ITEMS = 8
START_TIMEOUT_S = 120.0  # for a process to import what it needs, on a busy machine
STARTED, READY = -2, -1


@dataclass(frozen=True)
class Failure:
    """Why one item gave no result, in one line."""

    reason: str


@dataclass
class _Worker:
    process: Any  # multiprocessing's types differ by start method
    pipe: Connection
    heard_s: float
    ready: bool = False
    batch: deque[int] = field(default_factory=deque)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool(Generic[Item, Result]):
    """Maps a function over items in several processes (see `map_files`)."""

    def __init__(
        self, function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, timeout_s: float
    ) -> None:
        self.function = function
        self.items = items
        self.timeout_s = timeout_s
        self.waiting = deque(range(len(items)))
        self.wanted = max(1, min(workers, len(items)))
        self.workers: list[_Worker] = []
        self.context = multiprocessing.get_context("spawn")

    def run(self) -> Iterator[tuple[int, Result | Failure]]:
        try:
            while self.waiting or any(worker.batch for worker in self.workers):
                self._staff()
                yield from self._hear()
        finally:
            for worker in self.workers:
                worker.stop()

    def _staff(self) -> None:
        """Hires up to the number wanted and gives idle workers a batch."""
        busy = sum(bool(worker.batch) for worker in self.workers)
        while len(self.workers) < min(self.wanted, busy + len(self.waiting)):
            self.workers.append(self._hire())
        for worker in self.workers:
            if worker.ready and not worker.batch and self.waiting:
                self._feed(worker)

    def _hire(self) -> _Worker:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_work, args=(there,), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here, time.monotonic())

    def _feed(self, worker: _Worker) -> None:
        size = max(1, min(BATCH_ITEMS, len(self.waiting) // (2 * self.wanted)))
        worker.batch.extend(self.waiting.popleft() for _ in range(size))
        worker.heard_s = time.monotonic()
        with suppress(OSError):  # a worker that died meanwhile is found out by its closed pipe
            worker.pipe.send([(index, self.items[index]) for index in worker.batch])

    def _hear(self) -> Iterator[tuple[int, Result | Failure]]:
        """Waits for news: yields results, and failures of workers that died or fell silent."""
        now = time.monotonic()
        patience = min((self._deadline(worker) for worker in self.workers if self._owes(worker)), default=now)
        speaking = set(wait([worker.pipe for worker in self.workers], timeout=max(0.0, patience - now)))
        for worker in list(self.workers):
            if worker.pipe in speaking:
                yield from self._listen(worker)
            elif self._owes(worker) and time.monotonic() > self._deadline(worker):
                yield from self._dismiss(worker, f"took longer than {self.timeout_s:g} s to read")

    def _owes(self, worker: _Worker) -> bool:
        return bool(worker.batch) or not worker.ready

    def _deadline(self, worker: _Worker) -> float:
        return worker.heard_s + (self.timeout_s if worker.ready else START_TIMEOUT_S)

    def _listen(self, worker: _Worker) -> Iterator[tuple[int, Result | Failure]]:
        try:
            index, outcome = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(1)
            yield from self._dismiss(worker, f"crashed the program that read it (exit code {worker.process.exitcode})")
            return
        worker.heard_s = time.monotonic()
        if index == STARTED:
            with suppress(OSError):  # see `_feed`
                worker.pipe.send(self.function)
        elif index == READY:
            worker.ready = True
        else:
            worker.batch.remove(index)
            yield index, outcome

    def _dismiss(self, worker: _Worker, reason: str) -> Iterator[tuple[int, Result | Failure]]:
        self.workers.remove(worker)
        worker.stop()
        if not worker.ready:
            raise RitornelloError(
                "worker processes cannot start; in a script, put the call under if __name__ == '__main__':"
            )
        if worker.batch:
            blamed = worker.batch.popleft()
            self.waiting.extendleft(reversed(worker.batch))
            yield blamed, Failure(reason)


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    timeout_s: float = 60.0,
) -> Iterator[tuple[int, Result | Failure]]:
    """Yields (index, result) for every item, in the order of completion.

    Args:
        function: a module's function; it, the items and the results are pickled.
        items: what to map; a `RitornelloError` or any other exception becomes a `Failure`.
        workers: processes; None is one for each processor this process may use.
        timeout_s: seconds that one item may take.

    Raises:
        RitornelloError: if worker processes cannot start.
    """
    if not items:
        return
    pool = Pool(function, items, workers=workers or usable_processors(), timeout_s=timeout_s)
    yield from pool.run()


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(pipe: Connection) -> None:
    """A worker's life: the function in, then batches in, one report per item out, until the pipe closes."""
    with suppress(EOFError, OSError, KeyboardInterrupt):
        pipe.send((STARTED, None))
        function: Callable[[Any], Any] = pipe.recv()
        pipe.send((READY, None))
        while True:
            for index, item in pipe.recv():
                pipe.send((index, _outcome(function, item)))


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except RitornelloError as error:
        return Failure(str(error))
    except Exception as error:  # one odd file must not stop a corpus; the reason is kept in the manifest
        return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
