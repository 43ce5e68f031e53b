"""What the verbs share: the application and its console, options, progress bars, and checks before work begins."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ritornello.errors import RitornelloError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Models complete piano performances in a memory of fixed size, and plays new ones.",
)
data_app = typer.Typer(help="Performances to packed corpora.")
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

MAX_SEED = 2**63 - 1  # torch takes no greater one


class Split(str, Enum):
    """The splits of a corpus."""

    train = "train"
    validation = "validation"
    test = "test"


class PrecisionName(str, Enum):
    """Precisions of training."""

    fp32 = "fp32"
    bf16 = "bf16"


Lanes = Annotated[int | None, typer.Option(help="Pieces read side by side, instead of the recipe's.")]
PieceTokens = Annotated[int | None, typer.Option(help="Train on so much of a piece at most.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
DataFolder = Annotated[Path, typer.Option(help="A packed corpus (see 'ritornello data').")]


def device_named(name: str | None) -> Any:
    """The torch device of a name, or the best there is."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):  # an assertion is what a torch without CUDA fails
        raise RitornelloError(f"device {name!r} cannot be used here; use cpu, or leave --device out") from None
    return device


def needs_torch() -> None:
    """Says in one line what to install where training cannot run."""
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ModuleNotFoundError as missing:
        raise RitornelloError(
            f"this needs the package {missing.name}; install it with: pip install 'ritornello[train]'"
        ) from None


@contextmanager
def stopping(*more: int) -> Iterator[Callable[[], bool]]:
    """Whether the user has pressed Ctrl-C, or one of ``more`` signals came, which does not break off what is done here.

    What comes again does.
    """
    came = False

    def come(number: int, _: object) -> None:
        nonlocal came
        came = True
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, come) for number in (signal.SIGINT, *more)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def music_bar(seconds: float) -> Iterator[Callable[[float], None]]:
    columns = (TextColumn("{task.fields[clock]} of music"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=seconds, clock=clock(0))
        yield lambda done: bar.update(task, completed=done, clock=clock(done))


@contextmanager
def count_bar() -> Iterator[Callable[[int, int, str], None]]:
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[what]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=what)


def clock(seconds: float) -> str:
    """minutes:seconds, rounded as a picture's are."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
