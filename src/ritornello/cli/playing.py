"""``generate`` and ``continue``."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ritornello.cli.common import AsJson, app, clock, console, music_bar, stopping
from ritornello.codec import steering
from ritornello.engines import DEFAULT_ENGINE
from ritornello.errors import RitornelloError
from ritornello.files import STANDARD_OUTPUT, check_writable
from ritornello.sampling import Sampling

DEFAULT_MODEL = "small"

Seed = Annotated[int | None, typer.Option(help="Same seed, same piece; drawn and shown if not given.", min=0)]
Minutes = Annotated[float, typer.Option(help="Length asked for.")]
FullLength = Annotated[
    bool, typer.Option("--full-length", help="Do not let the model end before the length asked for.")
]
Single = Annotated[bool, typer.Option("--single", help="Stop where the model ends the piece; else another follows.")]
Threads = Annotated[int | None, typer.Option(help="To compute with; the engine's choice if not given.", min=1)]
Temperature = Annotated[
    float, typer.Option(help="Of keys and loudness: below 1 safer, above 1 wilder, 0 always the likeliest.")
]
TopP = Annotated[float, typer.Option(help="Only the likeliest events that together reach this probability.")]
MinP = Annotated[float, typer.Option(help="Only events at least this share as likely as the likeliest.")]
Returns = Annotated[
    float, typer.Option(help="How often a minute a passage from before is called back; 0: as the model likes.")
]
Composer = Annotated[str | None, typer.Option(help="In whose manner, or a blend: chopin:0.7,debussy:0.3.")]
Density = Annotated[int | None, typer.Option(help="Of notes, 1 (sparse) to 7.")]
Loudness = Annotated[int | None, typer.Option(help="1 (soft) to 7.")]
Register = Annotated[int | None, typer.Option(help="1 (low) to 7.")]
SourceName = Annotated[str | None, typer.Option("--source", help="As in this part of the model's data: rolls.")]
Guidance = Annotated[float, typer.Option(help="Above 1 what is asked for weighs more, at twice the cost.")]
Model = Annotated[str, typer.Option(help="A bundled model's name, a checkpoint or an exported folder.")]
EngineName = Annotated[str, typer.Option("--engine", help="onnx (int8 weights), onnx-fp32, or torch.")]
Png = Annotated[Path | None, typer.Option(help="Also draw a piano roll here.")]
Svg = Annotated[Path | None, typer.Option(help="Also draw a piano roll here, as vector graphics.")]
Wav = Annotated[Path | None, typer.Option(help="Also render the sound here.")]
SoundFont = Annotated[
    Path | None,
    typer.Option(
        "--soundfont", help="A SoundFont to play --wav with; else RITORNELLO_SOUNDFONT, or the piano that comes along."
    ),
]


@app.command(epilog="Example: ritornello generate piece.mid --minutes 3 --seed 7 --png piece.png")
def generate(
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write; - for standard output.")],
    minutes: Minutes = 3.0,
    single: Single = False,
    full_length: FullLength = False,
    seed: Seed = None,
    temperature: Temperature = Sampling.temperature,
    top_p: TopP = Sampling.top_p,
    min_p: MinP = Sampling.min_p,
    returns: Returns = Sampling.returns,
    composer: Composer = None,
    density: Density = None,
    loudness: Loudness = None,
    register: Register = None,
    source_name: SourceName = None,
    guidance: Guidance = 1.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = DEFAULT_ENGINE,
    threads: Threads = None,
    png: Png = None,
    svg: Svg = None,
    wav: Wav = None,
    soundfont: SoundFont = None,
    as_json: AsJson = False,
) -> None:
    """Play a new piece, or several one after another where the model ends them before the time is over."""
    if single and full_length:
        raise RitornelloError("--single lets the model end the piece, --full-length forbids it; give one of them")
    seed = secrets.randbelow(2**32) if seed is None else seed
    files = Files(out, png, svg, wav)
    soundfont = files.checked(soundfont, minutes * 60, as_json)
    told = steering.asked(composer, source_name, density=density, loudness=loudness, register=register)
    sampling = Sampling(temperature, top_p, min_p, returns)
    performer = _performer(minutes, model, engine, threads, sampling, told, guidance)
    with music_bar(minutes * 60) as progress, stopping() as stop:
        performance = performer.generate(
            seconds=minutes * 60, seed=seed, may_end=not full_length, again=not single, progress=progress, stop=stop
        )
    title = f"Ritornello {model}, seed {seed}"
    _write(performance, title, files, soundfont, seed, performer.engine.trained_on, as_json, stop())


@app.command("continue", epilog="Example: ritornello continue mine.mid longer.mid --prompt-seconds 30 --minutes 2")
def continue_piece(
    source: Annotated[Path, typer.Argument(metavar="IN.mid", help="The performance to go on from.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write: prompt and continuation.")],
    prompt_seconds: Annotated[float | None, typer.Option(help="Use this much of IN.mid; all if not given.")] = None,
    minutes: Minutes = 2.0,
    only_new: Annotated[bool, typer.Option("--only-new", help="Leave the prompt out of what is written.")] = False,
    full_length: FullLength = False,
    force: Annotated[bool, typer.Option("--force", help="Write over IN.mid where OUT.mid is the same file.")] = False,
    seed: Seed = None,
    temperature: Temperature = Sampling.temperature,
    top_p: TopP = Sampling.top_p,
    min_p: MinP = Sampling.min_p,
    returns: Returns = Sampling.returns,
    composer: Composer = None,
    density: Density = None,
    loudness: Loudness = None,
    register: Register = None,
    source_name: SourceName = None,
    guidance: Guidance = 1.0,
    model: Model = DEFAULT_MODEL,
    engine: EngineName = DEFAULT_ENGINE,
    threads: Threads = None,
    png: Png = None,
    svg: Svg = None,
    wav: Wav = None,
    soundfont: SoundFont = None,
    as_json: AsJson = False,
) -> None:
    """Go on from a piece."""
    from ritornello.midi import read_midi

    seed = secrets.randbelow(2**32) if seed is None else seed
    piece = read_midi(source)
    files = Files(out, png, svg, wav, source, force)
    prompt_s = piece.seconds if prompt_seconds is None else min(prompt_seconds, piece.seconds)
    soundfont = files.checked(soundfont, prompt_s + minutes * 60, as_json)
    told = steering.asked(composer, source_name, density=density, loudness=loudness, register=register)
    sampling = Sampling(temperature, top_p, min_p, returns)
    performer = _performer(minutes, model, engine, threads, sampling, told, guidance)
    with music_bar(minutes * 60) as progress, stopping() as stop:
        try:
            performance = performer.continue_piece(
                piece,
                seconds=minutes * 60,
                seed=seed,
                prompt_s=prompt_seconds,
                may_end=not full_length,
                progress=progress,
                stop=stop,
            )
        except RitornelloError as error:
            raise RitornelloError(f"{source}: {error}") from None
    if only_new:
        performance = replace(performance, piece=performance.continuation(), prompt_s=0.0)
    title = f"{piece.title or source.stem}, continued by Ritornello"
    _write(performance, title, files, soundfont, seed, performer.engine.trained_on, as_json, stop())


@dataclass(frozen=True)
class Files:
    """What is written, and where."""

    out: Path
    png: Path | None
    svg: Path | None
    wav: Path | None
    source: Path | None = None
    """the performance that is read, which no picture or sound may replace"""
    force: bool = False
    """whether OUT.mid may"""

    def asked(self) -> dict[str, Path]:
        """The files beside OUT.mid, by the options that name them."""
        options = {"--png": self.png, "--svg": self.svg, "--wav": self.wav}
        return {name: path for name, path in options.items() if path is not None}

    def checked(self, soundfont: Path | None, seconds: float, as_json: bool) -> Path | None:
        """Looks whether all can be written before anything is played: minutes of playing must not be lost.

        Returns the SoundFont of a sound of up to ``seconds``; None for the package's own piano, or no sound.
        """
        check_writable(self.out, inputs=[path for path in (self.source, soundfont) if path and not self.force])
        taken = {path.resolve() for path in (self.out, self.source, soundfont) if path is not None}
        if as_json:
            taken.add(STANDARD_OUTPUT.resolve())
        if as_json and self.out == STANDARD_OUTPUT:
            raise RitornelloError("-: --json prints there; name a file, or leave --json out")
        for name, path in self.asked().items():
            check_writable(path)
            if path.resolve() in taken:
                raise RitornelloError(f"{path}: is named twice; name another file with {name}")
            taken.add(path.resolve())
        if self.wav is None:
            if soundfont is not None:
                raise RitornelloError(f"{soundfont}: a SoundFont is for --wav; name the sound's file with it")
            return None
        from ritornello.rendering.sound import check_seconds, check_soundfont
        from ritornello.rendering.soundfonts import find_soundfont

        check_seconds(seconds)
        found = find_soundfont(soundfont)
        check_soundfont(found)
        return found


def _performer(
    minutes: float,
    model: str,
    engine: str,
    threads: int | None,
    sampling: Sampling,
    told: dict[str, float],
    guidance: float,
) -> Any:
    from ritornello.performing import check_length, load

    check_length(minutes * 60)
    return load(model, engine=engine, sampling=sampling, told=told, guidance=guidance, threads=threads)


def _write(
    performance: Any,
    title: str,
    files: Files,
    soundfont: Path | None,
    seed: int,
    data: dict[str, str],
    as_json: bool,
    stopped: bool,
) -> None:
    if stopped and not len(performance.piece):
        console.print("stopped before there was a note; nothing is written")
        raise typer.Exit(130)
    # A file name may hold bytes that are no text; a title may not.
    piece = replace(performance.piece, title=title.encode("utf-8", "replace").decode())
    piece.write(files.out)
    _draw(piece, performance.prompt_s or None, files)
    if files.wav is not None:
        from ritornello.rendering.sound import write_wav

        with music_bar(piece.seconds) as progress:
            write_wav(piece, files.wav, soundfont, progress=progress)
    figures = {
        "file": str(files.out),
        **{name.strip("-"): str(path) for name, path in files.asked().items()},
        **({"soundfont": str(soundfont)} if soundfont else {}),
        "seconds": round(piece.seconds, 2),
        "prompt_seconds": round(performance.prompt_s, 2),
        "notes": len(piece),
        "tokens": performance.tokens,
        "seed": seed,
        "ended": performance.ended,
        "pieces": performance.pieces,
        "weights_trained_on": data.get("name", ""),
        "weights_licence": data.get("licence", ""),
    }
    if as_json:
        print(json.dumps(figures))
    else:
        end = ", ended by the model" if performance.ended else ", stopped" if stopped else ""
        several = f" in {performance.pieces} pieces" if performance.pieces > 1 else ""
        console.print(f"{files.out}: {clock(piece.seconds)}{several}, {len(piece):,} notes, seed {seed}{end}")
        if not len(piece):
            console.print("it has no note: let it be longer, or take another --seed, or a higher --top-p")
        if data.get("licence"):
            console.print(f"the model's weights were trained on {data['name']}: {data['licence']}", style="dim")
    if stopped:
        raise typer.Exit(130)


def _draw(piece: Any, split_s: float | None, files: Files) -> None:
    if files.png is None and files.svg is None:
        return
    from ritornello.rendering import piano_roll, piano_roll_svg

    for path, draw in ((files.png, piano_roll), (files.svg, piano_roll_svg)):
        if path is not None:
            draw(piece, path, split_s=split_s)
