"""``bench train`` and ``bench generate``: what training and playing cost, and whether a device computes right."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from ritornello.cli.common import (
    MAX_SEED,
    AsJson,
    PrecisionName,
    app,
    console,
    count_bar,
    device_named,
    needs_torch,
)
from ritornello.errors import RitornelloError
from ritornello.files import check_writable

if TYPE_CHECKING:
    from ritornello.bench.report import MeasuredSchedule

bench_app = typer.Typer(help="Measures this machine.")
app.add_typer(bench_app, name="bench")


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
    measured = {}
    with count_bar() as progress:
        for done, (name, schedule) in enumerate(schedules.items()):
            progress(done, len(schedules), name)
            measured[name] = measure_schedule(schedule, setting)
    rows, reference = compared(schedules, measured, setting), reference_of(schedules)
    threads = measured[reference].threads
    if png is not None:
        draw(rows, png, reference=reference)
    if as_json:
        figures = {
            "layers": layers,
            **asdict(setting),
            "tokens": "random",
            "threads": threads,
            "torch": version("torch"),
            "reference": reference,
            "schedules": [{"name": name, "text": texts[name], **row.figures()} for name, row in rows.items()],
        }
        print(json.dumps(figures, indent=1))
        return
    console.print(_table(rows))
    console.print(
        f"Training steps on random tokens: {layers} layers, width {width}, {heads} heads, {lanes} lanes, segments of "
        f"{segment:,}, {precision.value} on {setting.device}, {threads} threads. Ratios are to {reference}; memory is "
        "the peak above idle, the state per lane. Finite memories were full, their tokens/s are by the median of "
        f"{steps} steps. Unlimited ones grew over a piece of {piece:,} tokens: tokens/s by the mean of steps spread "
        "over it, peak and state from its last segment. Of matrix: the FLOPs that this takes at least, as a share of "
        "what products of large matrices reached just after, "
        f"{measured[reference].matrix_flops_per_s / 1e9:,.0f} GFLOP/s beside {reference}."
    )
    if png is not None:
        console.print(f"{png}: drawn")


@bench_app.command(epilog="Example: ritornello bench generate --model small --tokens 5000 --png generate.png")
def generate(
    model: Annotated[str, typer.Option(help="A bundled model's name, a checkpoint or an exported folder.")] = "small",
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
    with count_bar() as progress:
        names = engine or ENGINES
        for done, name in enumerate(names):
            progress(done, len(names), name)
            try:
                measured[name] = measure(Setting(model, name, tokens, position, threads, seed))
            except RitornelloError as error:
                if engine or name == ENGINES[0]:
                    raise
                left_out[name] = str(error)
    if png is not None:
        from ritornello.bench.pictures import draw_generation

        draw_generation(measured, png)
    if as_json:
        figures = {"model": model, "tokens": tokens, "position": position, "seed": seed, "left_out": left_out}
        rows = [{"engine": name, **one.figures()} for name, one in measured.items()]
        print(json.dumps(figures | {"engines": rows}, indent=1))
        return
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("engine", "tokens/s", "real time", "p50 ms", "p99 ms", "first s", "peak MB", "read MB", "GB/s"):
        table.add_column(heading, justify="left" if heading == "engine" else "right", no_wrap=True)
    for name, one in measured.items():
        table.add_row(
            name,
            f"{one.tokens_per_s:,.0f}",
            f"{one.real_time_factor:.1f}",
            f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.first_note_s:.2f}",
            f"{one.peak_bytes / 1e6:,.0f}",
            f"{one.touched_bytes / 1e6:,.1f}",
            f"{one.touched_bytes * one.tokens_per_s / 1e9:.1f}, {one.bandwidth_share:.0%}",
        )
    console.print(table)
    some = next(iter(measured.values()))
    console.print(
        f"{model}: {tokens:,} events from position {position:,} on, memories full, {some.threads} threads. Real time: "
        "seconds of music per second. First: the first note, from the start of the process. Peak: resident, Python and "
        f"libraries included; it grew by {max(one.grown_bytes for one in measured.values()) / 1e6:.1f} MB at most. "
        "Read: matrices and memories, once a token; GB/s: at this speed, and its share of the "
        f"{some.bandwidth_bytes_per_s / 1e9:.1f} GB/s that reading large arrays reached."
    )
    for name, why in left_out.items():
        console.print(f"{name} left out: {why}", style="dim")
    if png is not None:
        console.print(f"{png}: drawn")


def _table(rows: dict[str, MeasuredSchedule]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("schedule, lowest first", overflow="fold")
    for heading in ("tokens/s", "from to", "ratio", "of matrix", "peak", "ratio", "state", "declared"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows.items():
        slowest, fastest = row.measured.range_tokens_per_s
        horizons, agrees = str(row.schedule), row.measured.state_bytes == row.declared_state_bytes
        table.add_row(
            Text(name) if name == horizons else Text.assemble(f"{name}\n", (horizons, "dim")),
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


def _compare(device: Any, precision: Any, seed: int, as_json: bool) -> None:
    """Prints every schedule's errors; exit code 1 where one is above the tolerance."""
    from ritornello.bench.parity import TOLERANCES, compare, parity_schedules

    tolerance, schedules = TOLERANCES[precision], parity_schedules()
    found = {}
    with count_bar() as progress:
        for done, (name, schedule) in enumerate(schedules.items()):
            progress(done, len(schedules), name)
            found[name] = compare(schedule, device, precision=precision, seed=seed)
    failed = [name for name, one in found.items() if not one.within(tolerance)]
    if as_json:
        rows = [
            {
                "name": name,
                "schedule": str(schedules[name]),
                "logits_error": one.logits,
                "gradients_error": one.gradients,
            }
            for name, one in found.items()
        ]
        figures = {"device": str(device), "precision": precision, "tolerance": tolerance, "passed": not failed}
        print(json.dumps({**figures, "schedules": rows}, indent=1))
    else:
        table = Table("schedule", "logits", "gradients", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        for name, one in found.items():
            style = "red" if name in failed else ""
            table.add_row(Text(name), f"{one.logits:.1e}", f"{one.gradients:.1e}", style=style)
        console.print(table)
        verdict = f"parity fails for {len(failed)} of {len(found)}" if failed else f"parity holds for all {len(found)}"
        console.print(
            f"{verdict}: relative errors of {precision} on {device} against plain float32 on the CPU, "
            f"{tolerance:.0e} is allowed"
        )
    if failed:
        raise typer.Exit(1)
