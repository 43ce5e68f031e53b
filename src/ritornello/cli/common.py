"""What the verbs share: the application and its console, options, progress bars, and checks before work begins."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from functools import wraps
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ritornello.errors import RitornelloError, needing
from ritornello.rendering.scene import clock

app = typer.Typer(pretty_exceptions_enable=False)
console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)  # progress, notes and errors
output = Console(highlight=False, markup=False, soft_wrap=True)  # what a verb was asked for: tables and figures

Item = TypeVar("Item")
MAX_SEED = 2**63 - 1  # torch takes no greater one


class Split(str, Enum):
    train = "train"
    validation = "validation"
    test = "test"


class PrecisionName(str, Enum):
    fp32 = "fp32"
    bf16 = "bf16"


Lanes = Annotated[int | None, typer.Option(help="Pieces read side by side, instead of the recipe's.")]
PieceTokens = Annotated[int | None, typer.Option(help="Train on so much of a piece at most.", show_default=False)]
Memory = Annotated[
    str | None, typer.Option(help="Bytes for a performance's memories, such as 6MB: horizons are cut to fit.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
DataFolder = Annotated[Path, typer.Option(help="A packed corpus (see 'ritornello data'), or hf://owner/name.")]


def bytes_of(size: str | None) -> int | None:
    """A size such as 6MB in bytes; a number alone is bytes. Raises RitornelloError for what is none."""
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([kMG]?)B?", size.strip())
    if not match:
        raise RitornelloError(f"{size!r} is no size; write such as 500kB, 6MB or 6000000")
    return round(float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]])


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
    with needing("this", "'ritornello[train]'"):
        import safetensors  # noqa: F401
        import torch  # noqa: F401


def _version(asked: bool) -> None:
    if asked:
        print(version("ritornello"))
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done; 1 a check failed ('bench train --parity'), or a bug; 2 something to mend, said in one "
    "line; 130 stopped by Ctrl-C, 143 by the system; what was complete by then is kept."
)
def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Of the program.")
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", envvar="RITORNELLO_QUIET", help="Results and errors only: no progress, no notes."
        ),
    ] = False,
) -> None:
    """Models complete piano performances in a memory of fixed size, and plays new ones.

    Results go to standard output; progress, notes and errors to standard error.
    """
    console.quiet = quiet
    if quiet:
        os.environ["RITORNELLO_QUIET"] = "1"  # for the processes of a study


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
def count_bar(what: str = "") -> Iterator[Callable[..., None]]:
    """A bar that is moved by (done, total), and perhaps another word for what is counted."""
    columns = (
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("{task.fields[what]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1, what="")
        yield lambda done, total, what=what: bar.update(task, completed=done, total=total, what=what)


def with_bar(items: Mapping[str, Item]) -> Iterator[tuple[str, Item]]:
    """The items, each named by a bar while it is worked on."""
    with count_bar() as progress:
        for done, (name, item) in enumerate(items.items()):
            progress(done, len(items), name)
            yield name, item


def figures_table(first: str, *others: str) -> Table:
    """A table without lines: names to the left, figures to the right."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a verb the options of dataclasses, each of which it takes as one argument of that name.

    Their fields are annotated as options are. Typer reads a verb's signature, and this writes it: the fields in place
    of the argument.
    """

    def decorated(verb: Callable[..., None]) -> Callable[..., None]:
        hints, parameters = get_type_hints(verb, include_extras=True), []
        for parameter in signature(verb).parameters.values():
            if parameter.name not in groups:
                parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
                continue
            group = groups[parameter.name]
            hints |= get_type_hints(group, include_extras=True)
            parameters += [Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default) for f in fields(group)]

        @wraps(verb)
        def called(**arguments: Any) -> None:
            made = {n: group(**{f.name: arguments.pop(f.name) for f in fields(group)}) for n, group in groups.items()}
            verb(**arguments, **made)

        listed = [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
        called.__signature__ = signature(verb).replace(parameters=listed)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
        return called

    return decorated
