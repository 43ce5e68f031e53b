"""Runs a study: each row and seed in a process of its own, one JSON for each; what is done is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.studies.measuring import one_run
from ritornello.studies.results import result_path
from ritornello.studies.settings import StudySettings, claim
from ritornello.training import fitting
from ritornello.training.precision import Precision
from ritornello.training.recipes import Recipe

ASK_EVERY_S = 0.2  # whether to stop
MAX_JOBS = 256


def run_study(
    corpus: Corpus,
    out: Path,
    settings: StudySettings,
    *,
    device: str,
    jobs: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Trains and reads every row that has no figures in ``out/runs`` yet, seed by seed.

    Args:
        corpus: the packed corpus.
        out: folder of the study; training goes on from where a run was stopped.
        settings: what is held equal.
        device: a torch device's name.
        jobs: runs at a time; of a CPU's threads each has its share.
        say: called with one line before each run.

    Returns:
        Whether all runs are done; False if the process was asked to stop.

    Raises:
        RitornelloError: for settings other than the folder's, or rows that would not fit the machine.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise RitornelloError(f"jobs is {jobs}; it must lie between 1 and {MAX_JOBS}")
    recipes = settings.recipes()
    runs = [(row, seed) for seed in range(settings.seeds) for row in recipes]
    left = [(row, seed) for row, seed in runs if not result_path(out, row, seed).exists()]
    _check_fit(corpus, [recipes[row] for row, _ in left], jobs, torch.device(device), settings.precision)
    claim(out, settings.as_json(corpus))
    threads = max(1, torch.get_num_threads() // jobs)
    with _requests_to_stop() as asked, ThreadPoolExecutor(jobs) as pool:

        def one(row: str, seed: int) -> bool:
            if asked:
                return False
            say(f"run {runs.index((row, seed)) + 1} of {len(runs)}: {row}, seed {seed}")
            try:
                done = _in_a_process(asked, threads, (corpus, out, settings, row, seed, torch.device(device)))
                if done is None and not asked:
                    raise RitornelloError(f"{row}, seed {seed}: its process died; run the command again to go on")
                return bool(done)
            except BaseException:
                asked.append(signal.SIGTERM)  # the others save what they have, and no more are begun
                raise

        running = [pool.submit(one, row, seed) for row, seed in left]
        done = [run.result() for run in running]  # every one is asked: what went wrong in any is told
    return all(done)


def _check_fit(corpus: Corpus, recipes: list[Recipe], jobs: int, device: torch.device, precision: Precision) -> None:
    free, needed = fitting.free_bytes(device), []
    for recipe in recipes:
        memories = fitting.memories_of(recipe.model, recipe, corpus, device=device, precision=precision)
        memories.check_fit(free)
        needed.append(memories.nbytes)
    fitting.check_fit_at_once(needed, jobs, free)


def _in_a_process(asked: list[int], threads: int, run: tuple[Any, ...]) -> bool | None:
    """Calls `one_run` with these arguments in a fresh process, so that its memory is its own; None if that died.

    Requests to stop are handed on.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, threads, run))
    child.start()
    theirs.close()
    told = 0
    while not ours.poll(ASK_EVERY_S):
        if told < len(asked):
            child.terminate()
            told = len(asked)
    outcome: bool | Exception | None
    try:
        outcome = ours.recv()
    except EOFError:
        outcome = None
    child.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _child(pipe: Connection, threads: int, run: tuple[Any, ...]) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a Ctrl-C reaches the parent alone, which hands it on: two requests would stop us unsaved
    torch.set_num_threads(threads)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        pipe.send(one_run(*run))
    except (RitornelloError, OSError) as error:
        pipe.send(error)
    except KeyboardInterrupt:  # asked twice: what was saved before stands
        pass


def _stop_with_parent() -> None:
    """Saves and ends when the parent was killed: no two processes train in one folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _requests_to_stop() -> Iterator[list[int]]:
    """A list that grows with every SIGINT and SIGTERM, which do nothing else meanwhile."""
    asked: list[int] = []
    before = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
