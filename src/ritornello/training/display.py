"""What a training run shows while it goes: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ritornello.training.loop import Report

PLAIN_EVERY_S = 30.0
QUIET = "RITORNELLO_QUIET"  # set where processes of a study say nothing


@contextmanager
def watch(console: Console) -> Iterator[Callable[[Report], None]]:
    """A callback for `train` that shows its reports; validations stay on the screen."""
    if not console.is_terminal:
        yield _plain(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:

        def show(report: Report) -> None:
            live.update(Text(_line(report)))
            if report.validation is not None:
                live.console.print(_line(report))

        yield show


def plainly(name: str) -> Callable[[Report], None]:
    """A callback for `train` in a process of a study: a line now and then on standard error, with the run's name."""
    quiet = bool(os.environ.get(QUIET))
    return _plain(Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=quiet), f"{name}: ")


def _plain(console: Console, named: str = "") -> Callable[[Report], None]:
    shown_s = 0.0

    def show(report: Report) -> None:
        nonlocal shown_s
        if report.validation is not None or time.monotonic() - shown_s > PLAIN_EVERY_S:
            console.print(named + _line(report))
            shown_s = time.monotonic()

    return show


def _line(report: Report) -> str:
    line = f"{report.share:4.0%}  step {report.step:,}  {report.tokens / 1e6:.2f} M tokens"
    if not math.isnan(report.nats_per_token):  # which it is where no step was made since the last report
        line += f"  {report.nats_per_token:.3f} nats/token  {report.tokens_per_s:,.0f} tokens/s"
    line += f"  {report.memory_bytes / 2**20:,.0f} MiB  {report.left_s / 60:.0f} min left"
    if report.validation is not None:
        line += f"  validation {report.validation:.4f} (best {report.best:.4f})"
    return line
