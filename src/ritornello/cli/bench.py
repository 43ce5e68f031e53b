"""``schedules``, ``bench train``, ``bench generate``: what memory, training and playing cost, and parity."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ritornello.cli.common import (
    MAX_SEED,
    AsJson,
    PrecisionName,
    app,
    console,
    device_named,
    figures_table,
    needs_torch,
    output,
    with_bar,
)
from ritornello.errors import RitornelloError, counted
from ritornello.files import check_writable

if TYPE_CHECKING:
    from rich.table import Table

    from ritornello.bench.report import MeasuredSchedule
    from ritornello.bench.training import Measurement, Setting
    from ritornello.horizons import HorizonSchedule

bench_app = typer.Typer(help="Measures this machine.")
app.add_typer(bench_app, name="bench")


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
    from ritornello.horizons.text import study_texts

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
        rows = [
            {
                **{"name": name, "text": texts[name], "schedule": str(request.schedule)},
                **{"horizons": request.schedule.horizons, "rule": request.schedule.rule},
                **{"asked_budget_tokens": request.budget_tokens, **asdict(costs[name])},
            }
            for name, request in asked.items()
        ]
        print(json.dumps({**figures, "schedules": rows}, indent=1))
        return
    table = figures_table("schedule, lowest first", "budget", "fp32", "bf16", "int8", "MFLOPs", "reach")
    for name, request in asked.items():
        cost = costs[name]
        table.add_row(
            _named(name, request.schedule),
            "no limit" if cost.budget_tokens is None else f"{cost.budget_tokens:,}",
            *map(_human, cost.state_bytes.values()),
            f"{cost.attention_flops_per_token / 1e6:,.2f}",
            "piece" if cost.reach_tokens is None else f"{cost.reach_tokens:,}",
        )
    output.print(table)
    output.print(
        "Budget and reach in tokens, the state per lane, attention per token (forward) in the mean of a piece of "
        f"{piece:,} tokens, which is also what unlimited states hold. Width {width:,}, segments of {segment:,} tokens."
    )
    for name, request in asked.items():
        if request.change is not None:
            console.print(f"{name}: {request.change}")
    if png is not None:
        console.print(f"{png}: drawn")


@bench_app.command(epilog="Example: ritornello bench train unlimited 'two_scale(2x4096, 512)' --piece 8192 --png b.png")
def train(
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="[SPEC]...", help="Schedules; without any, the study's.")
    ] = None,
    layers: Annotated[int, typer.Option(help="Depth of the model.", min=1, max=1000)] = 8,
    width: Annotated[int, typer.Option(help="Of the model.", min=1, max=1_000_000)] = 256,
    heads: Annotated[int, typer.Option(help="Of attention.", min=1, max=1_000_000)] = 4,
    lanes: Annotated[int, typer.Option(help="Pieces read side by side.")] = 4,
    segment: Annotated[int, typer.Option(help="Tokens of a segment.", min=1, max=1_000_000)] = 512,
    piece: Annotated[int, typer.Option(help="Tokens of the piece, in whole segments.")] = 16_384,
    steps: Annotated[int, typer.Option(help="Steps to measure, spread over the piece once memories are full.")] = 8,
    precision: Annotated[PrecisionName, typer.Option(help="Of matrix products.")] = PrecisionName.fp32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and tokens.", min=0, max=MAX_SEED)] = 0,
    png: Annotated[Path | None, typer.Option(help="Draw speed and memory here (.png or .svg).")] = None,
    parity: Annotated[
        bool, typer.Option("--parity", help="Compare the device with the plain CPU reference instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Speed and memory of training under each schedule; with --parity, whether the device computes the right thing."""
    needs_torch()
    if parity:
        if specs or png is not None:
            raise RitornelloError("--parity compares small schedules of every kind; leave SPEC and --png out")
        _compare(device_named(device), precision.value, seed, as_json)
        return
    from ritornello.bench.report import compared, draw
    from ritornello.bench.training import Setting, check_memory, measure_schedule, reference_of, standard_texts
    from ritornello.horizons import HorizonSchedule

    if png is not None:
        check_writable(png)
    setting = Setting(
        width=width,
        heads=heads,
        lanes=lanes,
        segment_tokens=segment,
        piece_tokens=piece,
        steps=steps,
        device=str(device_named(device)),
        precision=precision.value,
        seed=seed,
    )
    texts = {spec: spec for spec in specs} if specs else standard_texts(layers=layers, segment_tokens=segment)
    schedules = {name: HorizonSchedule.parse(text, layers=layers) for name, text in texts.items()}
    for schedule in schedules.values():
        check_memory(schedule, setting)
    measured = {name: measure_schedule(schedule, setting) for name, schedule in with_bar(schedules)}
    rows, reference = compared(schedules, measured, setting), reference_of(schedules)
    if png is not None:
        draw(rows, png, reference=reference)
    if as_json:
        figures = {
            "layers": layers,
            **asdict(setting),
            "tokens": "random",
            "threads": measured[reference].threads,
            "torch": version("torch"),
            "reference": reference,
            "schedules": [{"name": name, "text": texts[name], **row.figures()} for name, row in rows.items()],
        }
        print(json.dumps(figures, indent=1))
        return
    output.print(_table(rows))
    output.print(_explanation(setting, layers, reference, measured[reference]))
    if png is not None:
        console.print(f"{png}: drawn")


@bench_app.command(epilog="Example: ritornello bench generate --model base --tokens 5000 --png generate.png")
def generate(
    model: Annotated[str, typer.Option(help="A bundled model's name, a checkpoint or an exported folder.")] = "base",
    engine: Annotated[
        list[str] | None, typer.Option(help="May be given more than once; all that can be loaded if not given.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Events to time.")] = 2000,
    position: Annotated[int, typer.Option(help="Tokens of the piece that came before.")] = 10_000,
    threads: Annotated[int | None, typer.Option(help="To compute with; the engine's choice if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Of the music.", min=0, max=MAX_SEED)] = 0,
    png: Annotated[Path | None, typer.Option(help="Draw speed and delay here (.png or .svg).")] = None,
    as_json: AsJson = False,
) -> None:
    """Speed, delay and memory of playing, for each engine in a fresh process."""
    from ritornello.bench.generation import Setting, measure
    from ritornello.engines import ENGINES

    if png is not None:
        check_writable(png)
    measured, left_out = {}, {}
    for name, _ in with_bar(dict.fromkeys(engine or ENGINES)):
        try:
            measured[name] = measure(Setting(model, name, tokens, position, threads, seed))
        except RitornelloError as error:
            if engine or name == ENGINES[0]:
                raise
            left_out[name] = str(error)
    if png is not None:
        from ritornello.bench.generation import draw_generation

        draw_generation(measured, png)
    if as_json:
        figures = {"model": model, "tokens": tokens, "position": position, "seed": seed, "left_out": left_out}
        rows = [{"engine": name, **m.figures()} for name, m in measured.items()]
        print(json.dumps(figures | {"engines": rows}, indent=1))
        return
    headings = ("engine", "tokens/s", "real time", "p50 ms", "p99 ms", "first s", "peak MB", "read MB", "GB/s")
    table = figures_table(*headings)
    for name, m in measured.items():
        table.add_row(
            name,
            f"{m.tokens_per_s:,.0f}",
            f"{m.real_time_factor:.1f}",
            f"{m.p50_ms:.2f}",
            f"{m.p99_ms:.2f}",
            f"{m.first_note_s:.2f}",
            f"{m.peak_bytes / 1e6:,.0f}",
            f"{m.touched_bytes / 1e6:,.1f}",
            f"{m.touched_bytes * m.tokens_per_s / 1e9:.1f}, {m.bandwidth_share:.0%}",
        )
    output.print(table)
    some = next(iter(measured.values()))
    output.print(
        f"{model}: {tokens:,} events from position {position:,} on, memories full, {counted(some.threads, 'threads')}. "
        "Real time: seconds of music per second. First: the first note, from the start of the process. Peak: resident, "
        "Python and libraries included; "
        f"it grew by {max(m.grown_bytes for m in measured.values()) / 1e6:.1f} MB at most. "
        "Read: matrices and memories, once a token; GB/s: at this speed, and its share of the "
        f"{some.bandwidth_bytes_per_s / 1e9:.1f} GB/s that reading large arrays reached."
    )
    for name, why in left_out.items():
        console.print(f"{name} left out: {why}", style="dim")
    if png is not None:
        console.print(f"{png}: drawn")


def _table(rows: dict[str, MeasuredSchedule]) -> Table:
    headings = ("tokens/s", "from to", "ratio", "of matrix", "peak", "ratio", "state", "declared")
    table = figures_table("schedule, lowest first", *headings)
    for name, row in rows.items():
        slowest, fastest = row.measured.range_tokens_per_s
        agrees = row.measured.state_bytes == row.declared_state_bytes
        table.add_row(
            _named(name, row.schedule),
            f"{row.measured.tokens_per_s:,.0f}",
            f"{slowest:,.0f} {fastest:,.0f}",
            f"{row.speed_ratio:.2f}",
            f"{row.matrix_share:.0%}",
            f"{row.measured.peak_bytes / 1e6:,.0f} MB",
            f"{row.peak_ratio:.2f}",
            f"{row.measured.state_bytes / 1e6:,.2f} MB",
            "the same" if agrees else Text(f"{row.declared_state_bytes / 1e6:,.2f} MB", style="red"),
        )
    return table


def _explanation(setting: Setting, layers: int, reference: str, measured: Measurement) -> str:
    return (
        f"Training steps on random tokens: {counted(layers, 'layers')}, width {setting.width}, "
        f"{counted(setting.heads, 'heads')}, {counted(setting.lanes, 'lanes')}, "
        f"segments of {setting.segment_tokens:,}, {setting.precision} on {setting.device}, "
        f"{counted(measured.threads, 'threads')}. Ratios are to {reference}; memory is the peak above idle, the state "
        "per lane. Finite memories were full, their tokens/s are by the median of "
        f"{counted(setting.steps, 'steps')}. Unlimited ones grew "
        f"over a piece of {setting.piece_tokens:,} tokens: tokens/s by the mean of steps spread over it, peak and "
        "state from its last segment. Of matrix: the FLOPs that this takes at least, as a share of what products of "
        f"large matrices reached just after, {measured.matrix_flops_per_s / 1e9:,.0f} GFLOP/s beside {reference}."
    )


def _compare(device: Any, precision: Any, seed: int, as_json: bool) -> None:
    """Prints every schedule's errors; exit code 1 where one is above the tolerance."""
    from ritornello.bench.parity import TOLERANCES, compare, parity_schedules

    tolerance, schedules = TOLERANCES[precision], parity_schedules()
    errors = {name: compare(kind, device, precision=precision, seed=seed) for name, kind in with_bar(schedules)}
    failed = [name for name, error in errors.items() if not error.within(tolerance)]
    if as_json:
        rows = [
            {"name": name, "schedule": str(kind), **{f"{part}_error": e for part, e in asdict(errors[name]).items()}}
            for name, kind in schedules.items()
        ]
        figures = {"device": str(device), "precision": precision, "tolerance": tolerance, "passed": not failed}
        print(json.dumps({**figures, "schedules": rows}, indent=1))
    else:
        table = figures_table("schedule", "logits", "gradients")
        for name, error in errors.items():
            style = "red" if name in failed else ""
            table.add_row(Text(name), f"{error.logits:.1e}", f"{error.gradients:.1e}", style=style)
        output.print(table)
        verdict = (
            f"parity fails for {len(failed)} of {len(errors)}" if failed else f"parity holds for all {len(errors)}"
        )
        output.print(
            f"{verdict}: relative errors of {precision} on {device} against plain float32 on the CPU, "
            f"{tolerance:.0e} is allowed"
        )
    if failed:
        raise typer.Exit(1)


def _named(name: str, schedule: HorizonSchedule) -> Text:
    """A schedule's name, and its horizons where that is another."""
    horizons = str(schedule)
    return Text(name) if name == horizons else Text.assemble(f"{name}\n", (horizons, "dim"))


def _human(size_bytes: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= size:
            decimals = max(0, 3 - len(str(size_bytes // size)))
            return f"{size_bytes / size:.{decimals}f} {unit}"
    return f"{size_bytes} B"
