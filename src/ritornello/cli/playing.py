"""``generate`` and ``continue``."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from ritornello.cli.common import AsJson, app, check_writable, clock, console, music_bar
from ritornello.errors import RitornelloError

DEFAULT_MODEL = "small"

Seed = Annotated[int | None, typer.Option(help="Same seed, same piece; drawn and shown if not given.", min=0)]
Minutes = Annotated[float, typer.Option(help="Length asked for; the model may end earlier.")]
FullLength = Annotated[
    bool, typer.Option("--full-length", help="Do not let the model end before the length asked for.")
]
Temperature = Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder, 0 always the likeliest event.")]
TopP = Annotated[float, typer.Option(help="Only the likeliest events that together reach this probability.")]
MinP = Annotated[float, typer.Option(help="Only events at least this share as likely as the likeliest.")]
Model = Annotated[str, typer.Option(help="A bundled model's name or a checkpoint folder.")]
EngineName = Annotated[str, typer.Option("--engine", help="What runs the model.")]
Png = Annotated[Path | None, typer.Option(help="Also draw a piano roll here.")]


@app.command(epilog="Example: ritornello generate piece.mid --minutes 3 --seed 7 --png piece.png")
def generate(
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write.")],
    minutes: Minutes = 3.0,
    full_length: FullLength = False,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = "torch",
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Play a new piece."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    performer = _performer(out, png, minutes, model, engine, temperature, top_p, min_p)
    with music_bar(minutes * 60) as progress:
        performance = performer.generate(seconds=minutes * 60, seed=seed, may_end=not full_length, progress=progress)
    _write(performance, f"Ritornello {model}, seed {seed}", out, png, seed, performer.engine.data, as_json)


@app.command("continue", epilog="Example: ritornello continue mine.mid longer.mid --prompt-seconds 30 --minutes 2")
def continue_piece(
    source: Annotated[Path, typer.Argument(metavar="IN.mid", help="The performance to go on from.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write: prompt and continuation.")],
    prompt_seconds: Annotated[float | None, typer.Option(help="Use this much of IN.mid; all if not given.")] = None,
    minutes: Minutes = 2.0,
    full_length: FullLength = False,
    seed: Seed = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = "torch",
    png: Png = None,
    as_json: AsJson = False,
) -> None:
    """Go on from a piece."""
    from ritornello.midi import read_midi

    seed = secrets.randbelow(2**32) if seed is None else seed
    piece = read_midi(source)
    performer = _performer(out, png, minutes, model, engine, temperature, top_p, min_p)
    with music_bar(minutes * 60) as progress:
        try:
            performance = performer.continue_piece(
                piece,
                seconds=minutes * 60,
                seed=seed,
                prompt_s=prompt_seconds,
                may_end=not full_length,
                progress=progress,
            )
        except RitornelloError as error:
            raise RitornelloError(f"{source}: {error}") from None
    title = f"{piece.title or source.stem}, continued by Ritornello"
    _write(performance, title, out, png, seed, performer.engine.data, as_json)


def _performer(
    out: Path, png: Path | None, minutes: float, model: str, engine: str, temperature: float, top_p: float, min_p: float
) -> Any:
    """A performer, after a look at whether its result can be written: minutes of playing must not be lost."""
    from ritornello.performing import check_length, load
    from ritornello.sampling import Sampling

    for path in filter(None, (out, png)):
        check_writable(path)
    if png is not None and png.absolute() == out.absolute():
        raise RitornelloError(f"{png}: cannot hold both the music and its picture; name another file with --png")
    check_length(minutes * 60)
    return load(model, engine=engine, sampling=Sampling(temperature, top_p, min_p))


def _write(
    performance: Any, title: str, out: Path, png: Path | None, seed: int, data: dict[str, str], as_json: bool
) -> None:
    from dataclasses import replace

    # A file name may hold bytes that are no text; a title may not.
    piece = replace(performance.piece, title=title.encode("utf-8", "replace").decode())
    piece.write(out)
    if png is not None:
        from ritornello.rendering import piano_roll

        piano_roll(piece, png, split_s=performance.prompt_s or None)
    figures = {
        "file": str(out),
        "seconds": round(piece.seconds, 2),
        "prompt_seconds": round(performance.prompt_s, 2),
        "notes": len(piece),
        "tokens": performance.tokens,
        "seed": seed,
        "ended": performance.ended,
        "weights_trained_on": data.get("name", ""),
        "weights_licence": data.get("licence", ""),
    }
    if as_json:
        print(json.dumps(figures))
    else:
        end = ", ended by the model" if performance.ended else ""
        console.print(f"{out}: {clock(piece.seconds)}, {len(piece):,} notes, seed {seed}{end}")
        if data.get("licence"):
            console.print(f"the model's weights were trained on {data['name']}: {data['licence']}", style="dim")
