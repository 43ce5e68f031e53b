"""Runs a study: each row and seed in a process of its own, one record for each; what is done is not done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError, check_limits
from ritornello.studies.measure import measure_run
from ritornello.studies.record import Conditions, record_path
from ritornello.studies.study import claim, recipes_of
from ritornello.training import fitting
from ritornello.training.folder import interruptible
from ritornello.training.recipes import Recipe
from ritornello.workers import end_with_parent

ASK_EVERY_S = 0.2  # whether to stop


def run_study(
    corpus: Corpus,
    out: Path,
    conditions: Conditions,
    *,
    device: str,
    rows: Sequence[str] = (),
    seeds: int = 2,
    jobs: int = 1,
    share: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Trains and reads every row that has no record in ``out/runs`` yet, seed by seed, from 0.

    A training goes on from where a run was stopped. Of a CPU's threads each of ``jobs`` runs at a time has its share.
    ``share`` is which of how many processes this is: each takes its part of the runs, and they need not meet.

    Returns:
        Whether all runs of its share are done; False if the process was asked to stop.

    Raises:
        RitornelloError: for unknown rows, another study's folder, rows that would not fit the machine, or a run that
            failed; then the others save what they have.
    """
    check_limits(jobs=(jobs, 1, 256), seeds=(seeds, 1, 100))
    recipes = recipes_of(conditions, tuple(rows))
    runs = [(row, seed) for seed in range(seeds) for row in recipes]
    own = runs[share[0] :: share[1]]
    waiting = deque((row, seed) for row, seed in own if not record_path(out, row, seed).exists())
    _check_fit(corpus, [recipes[row] for row, _ in waiting], jobs, torch.device(device), conditions.precision)
    claim(out, conditions)
    threads = max(1, torch.get_num_threads() // jobs)
    running: dict[Any, tuple[Any, str]] = {}  # by the pipe of each
    failures: list[Exception] = []
    complete, forwarded = True, 0
    with interruptible(at_once=False) as requests:
        while running or (waiting and not requests):
            while waiting and len(running) < jobs and not requests:
                row, seed = waiting.popleft()
                say(f"run {runs.index((row, seed)) + 1} of {len(runs)}: {row}, seed {seed}")
                pipe, process = _start(threads, (corpus, out, conditions, row, seed, torch.device(device)))
                running[pipe] = process, f"{row}, seed {seed}"
            if forwarded < len(requests):
                forwarded = len(requests)
                for process, _ in running.values():
                    process.terminate()
            for ended in wait(list(running), timeout=ASK_EVERY_S):
                process, name = running.pop(ended)
                outcome = _outcome(ended, process)
                if outcome is None and not requests:
                    outcome = RitornelloError(f"{name}: its process died; run the command again to go on")
                if isinstance(outcome, Exception):
                    failures.append(outcome)
                    requests.append(signal.SIGTERM)  # the others save what they have, and no more are begun
                complete &= outcome is True
    if failures:
        raise failures[0]
    return complete and not waiting


def _check_fit(corpus: Corpus, recipes: list[Recipe], jobs: int, device: torch.device, precision: Any) -> None:
    free, needed = fitting.free_bytes(device), []
    for recipe in recipes:
        memories = fitting.memories_of(recipe.model, recipe, corpus, device=device, precision=precision)
        memories.check_fit(free)
        needed.append(memories.nbytes)
    fitting.check_fit_at_once(needed, jobs, free)


def _start(threads: int, run: tuple[Any, ...]) -> tuple[Connection, Any]:
    """Calls `measure_run` with these arguments in a fresh process, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, threads, run))
    process.start()
    sender.close()
    return receiver, process


def _outcome(pipe: Any, process: Any) -> bool | Exception | None:
    """What a process that has ended was for: whether it is done, what went wrong, or None where it died."""
    try:
        outcome: bool | Exception | None = pipe.recv()
    except EOFError:
        outcome = None
    process.join()
    return outcome


def _child(pipe: Connection, threads: int, run: tuple[Any, ...]) -> None:
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a Ctrl-C reaches the parent alone, which hands it on: two requests would stop us unsaved
    torch.set_num_threads(threads)
    os.environ.pop("TORCHELASTIC_RUN_ID", None)  # torchrun deals runs to processes; each run is trained by one
    # Saves and ends when the parent was killed: no two processes train in one folder.
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        pipe.send(measure_run(*run))
    except (RitornelloError, OSError) as error:
        pipe.send(error)
    except KeyboardInterrupt:  # the second request to stop: the checkpoint of before is complete
        pass
