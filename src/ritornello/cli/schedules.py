"""``schedules``: memory horizons side by side, as a table, as figures and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ritornello.cli.common import AsJson, app, console, output
from ritornello.files import check_writable

if TYPE_CHECKING:
    from ritornello.horizons import Request
    from ritornello.horizons.costs import Costs


@app.command(
    epilog="Example: ritornello schedules 'two_scale(long=2x2048, short=256)' 'uniform(budget=5632)' --png s.png"
)
def schedules(
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="[SPEC]...", help="Schedules; without any, the study's.")
    ] = None,
    layers: Annotated[int, typer.Option(help="Depth of the model.", min=1, max=1000)] = 8,
    width: Annotated[int, typer.Option(help="Of keys and values: heads x head size.", min=1, max=1_000_000)] = 256,
    segment: Annotated[int, typer.Option(help="Tokens of a segment.", min=1, max=65_536)] = 512,
    budget: Annotated[int, typer.Option(help="Tokens that each of the study's schedules spends.")] = 8192,
    piece: Annotated[int, typer.Option(help="Tokens of the piece that is read.", min=1, max=10_000_000)] = 16_384,
    png: Annotated[Path | None, typer.Option(help="Draw the schedules here (.png or .svg).")] = None,
    as_json: AsJson = False,
) -> None:
    """Memory horizons side by side: budget, bytes, work and reach."""
    from ritornello.horizons import requested
    from ritornello.horizons.costs import costs_of
    from ritornello.horizons.study import study_texts

    if png is not None:
        check_writable(png)
    texts = {spec: spec for spec in specs} if specs else study_texts(layers=layers, budget_tokens=budget)
    asked = {name: requested(text, layers=layers) for name, text in texts.items()}
    costs = {
        name: costs_of(request.schedule, width=width, segment_tokens=segment, piece_tokens=piece)
        for name, request in asked.items()
    }
    if png is not None:
        from ritornello.horizons.chart import draw_schedules

        draw_schedules({name: request.schedule for name, request in asked.items()}, png, segment_tokens=segment)
    if as_json:
        figures = {"layers": layers, "width": width, "segment_tokens": segment, "piece_tokens": piece}
        rows = [{"name": name, "text": texts[name], **_figures(asked[name], costs[name])} for name in texts]
        print(json.dumps({**figures, "schedules": rows}, indent=1))
        return
    output.print(_table(asked, costs))
    output.print(
        "Budget and reach in tokens, the state per lane, attention per token (forward) in the mean of a piece of "
        f"{piece:,} tokens, which is also what unlimited states hold. Width {width:,}, segments of {segment:,} tokens."
    )
    for name, request in asked.items():
        if request.change is not None:
            console.print(f"{name}: {request.change}")
    if png is not None:
        console.print(f"{png}: drawn")


def _figures(request: Request, cost: Costs) -> dict[str, Any]:
    return {
        "schedule": str(request.schedule),
        "horizons": request.schedule.horizons,
        "rule": request.schedule.rule,
        "asked_budget_tokens": request.budget_tokens,
        **asdict(cost),
    }


def _table(asked: dict[str, Request], costs: dict[str, Costs]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("schedule, lowest first", overflow="fold")
    for heading in ("budget", "fp32", "bf16", "int8", "MFLOPs", "reach"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, request in asked.items():
        cost, horizons = costs[name], str(request.schedule)
        table.add_row(
            Text(name) if name == horizons else Text.assemble(f"{name}\n", (horizons, "dim")),
            "no limit" if cost.budget_tokens is None else f"{cost.budget_tokens:,}",
            *map(_human, cost.state_bytes.values()),
            f"{cost.attention_flops_per_token / 1e6:,.2f}",
            "piece" if cost.reach_tokens is None else f"{cost.reach_tokens:,}",
        )
    return table


def _human(size_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= size:
            decimals = max(0, 3 - len(str(size_bytes // size)))
            return f"{size_bytes / size:.{decimals}f} {unit}"
    return f"{size_bytes} B"
