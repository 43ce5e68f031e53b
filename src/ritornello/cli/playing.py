"""``generate`` and ``continue``."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ritornello.cli.common import AsJson, Memory, app, bytes_of, console, music_bar, stopping, with_options
from ritornello.codec import steering
from ritornello.engines import DEFAULT_ENGINE
from ritornello.errors import RitornelloError, counted
from ritornello.files import STANDARD_OUTPUT, check_writable
from ritornello.rendering import formats, wav
from ritornello.rendering.scene import clock
from ritornello.sampling import Sampling

DEFAULT_MODEL = "base"

Minutes = Annotated[float, typer.Option(help="Length asked for.")]
FullLength = Annotated[
    bool, typer.Option("--full-length", help="Do not let the model end before the length asked for.")
]
Threads = Annotated[int | None, typer.Option(help="To compute with; the engine's choice if not given.", min=1)]
Model = Annotated[
    str, typer.Option(help="A bundled model's name, a checkpoint or exported folder, or hf://owner/name.")
]
EngineName = Annotated[str, typer.Option("--engine", help="onnx (int8 weights), onnx-fp32, or torch.")]


@dataclass(frozen=True)
class Player:
    """Which model plays, and how."""

    seed: Annotated[int | None, typer.Option(help="Same seed, same piece; drawn and shown if not given.", min=0)] = None
    temperature: Annotated[
        float, typer.Option(help="Of keys: below 1 safer, above 1 wilder, 0 always the likeliest.")
    ] = Sampling.temperature
    top_p: Annotated[float, typer.Option(help="Only the likeliest events that together reach this probability.")] = (
        Sampling.top_p
    )
    min_p: Annotated[float, typer.Option(help="Only events at least this share as likely as the likeliest.")] = (
        Sampling.min_p
    )
    returns: Annotated[
        float, typer.Option(help="How often a minute a passage from before is called back; 0: as the model likes.")
    ] = Sampling.returns
    playable: Annotated[
        bool, typer.Option(help="Nothing that no hands play, and no piece cut short; else as the model says.")
    ] = Sampling.playable
    composer: Annotated[str | None, typer.Option(help="In whose manner, or a blend: chopin:0.7,debussy:0.3.")] = None
    density: Annotated[int | None, typer.Option(help="Of notes, 1 (sparse) to 7.")] = None
    loudness: Annotated[int | None, typer.Option(help="1 (soft) to 7.")] = None
    register: Annotated[int | None, typer.Option(help="1 (low) to 7.")] = None
    source_name: Annotated[str | None, typer.Option("--source", help="As in this part of the model's data: rolls.")] = (
        None
    )
    guidance: Annotated[float, typer.Option(help="Above 1 what is asked for weighs more, at twice the cost.")] = 1.0
    model: Model = DEFAULT_MODEL
    engine: EngineName = DEFAULT_ENGINE
    threads: Threads = None
    memory: Memory = None

    def seeded(self) -> int:
        """The seed asked for, or one that is drawn."""
        return secrets.randbelow(2**32) if self.seed is None else self.seed

    def load(self, seconds: float | None = None) -> Any:
        """The model, ready to play so long. Raises RitornelloError for what does not exist or is outside its limits."""
        from ritornello.performing import check_length, load

        if seconds is not None:
            check_length(seconds)
        steps = {"density": self.density, "loudness": self.loudness, "register": self.register}
        told = steering.asked(self.composer, self.source_name, **steps)
        sampling = Sampling(self.temperature, self.top_p, self.min_p, self.returns, self.playable)
        how: dict[str, Any] = {"sampling": sampling, "told": told, "guidance": self.guidance}
        how |= {"threads": self.threads, "memory_bytes": bytes_of(self.memory)}
        return load(self.model, engine=self.engine, **how)


FORMATS = formats()


@dataclass(frozen=True)
class Rendered:
    """What is made of a piece beside its MIDI file; `Outputs` has an option for each of `FORMATS` too."""

    soundfont: Annotated[
        Path | None,
        typer.Option(
            "--soundfont",
            help="A SoundFont to play --wav with; else RITORNELLO_SOUNDFONT, or the piano that comes along.",
        ),
    ] = None
    pedal: Annotated[
        bool, typer.Option("--pedal", help="Write what is new as keys and sustain pedal; else it is in the notes.")
    ] = False
    as_json: AsJson = False

    def files(self) -> dict[str, Path]:
        return {name: path for name in FORMATS if (path := getattr(self, name)) is not None}

    def checked(self, out: Path, seconds: float, *, source: Path | None = None, force: bool = False) -> Rendered:
        """Looks whether all can be written before anything is played: minutes of playing must not be lost.

        ``source`` is the performance that is read, which only ``out`` may replace, and that with ``force``.

        Returns:
            The same with the SoundFont of the sound; None for the package's own piano, or no sound.
        """
        check_writable(out, inputs=[path for path in (source, self.soundfont) if path and not force])
        taken = {path.resolve() for path in (out, source, self.soundfont) if path is not None}
        if self.as_json:
            taken.add(STANDARD_OUTPUT.resolve())
        if self.as_json and out == STANDARD_OUTPUT:
            raise RitornelloError("-: --json prints there; name a file, or leave --json out")
        for name, path in self.files().items():
            check_writable(path)
            if path.resolve() in taken:
                raise RitornelloError(f"{path}: is named twice; name another file with --{name}")
            taken.add(path.resolve())
        if "wav" not in self.files():
            if self.soundfont is not None:
                raise RitornelloError(f"{self.soundfont}: a SoundFont is for --wav; name the sound's file with it")
            return self
        wav.check_seconds(seconds)
        soundfont = wav.find_soundfont(self.soundfont)
        wav.check_soundfont(soundfont)
        return replace(self, soundfont=soundfont)


def _option(about: str | None) -> Any:
    return Annotated[Path | None, typer.Option(help=f"Also write this here: {(about or '').splitlines()[0]}")]


Outputs = make_dataclass(
    "Outputs", [(name, _option(file.__doc__), None) for name, file in FORMATS.items()], bases=(Rendered,), frozen=True
)


@app.command(epilog="Example: ritornello generate piece.mid --minutes 3 --seed 7 --png piece.png")
@with_options(player=Player, files=Outputs)
def generate(
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write; - for standard output.")],
    minutes: Minutes = 3.0,
    single: Annotated[
        bool, typer.Option("--single", help="Stop where the model ends the piece; else another follows.")
    ] = False,
    full_length: FullLength = False,
    like: Annotated[
        Path | None, typer.Option(metavar="IN.mid", help="As dense, loud and high as this piece, moment for moment.")
    ] = None,
    *,
    player: Player,
    files: Rendered,
) -> None:
    """Play a new piece, or several one after another where the model ends them before the time is over."""
    if single and full_length:
        raise RitornelloError("--single lets the model end the piece, --full-length forbids it; give one of them")
    seed, files = player.seeded(), files.checked(out, minutes * 60, source=like)
    course = None if like is None else _course_of(like)
    performer = player.load(minutes * 60)
    if like is not None and not set(steering.labels((), ())).issubset(performer.engine.labels):
        raise RitornelloError(f"{player.model}: cannot be told how dense, loud and high to play; leave --like out")
    with music_bar(minutes * 60) as progress, stopping() as stop:
        performance = performer.generate(
            seconds=minutes * 60,
            seed=seed,
            may_end=not full_length,
            again=not single,
            course=course,
            progress=progress,
            stop=stop,
        )
    title = f"Ritornello {player.model}, seed {seed}"
    _write(performance, title, out, files, seed, performer.engine.trained_on, stop())


def _course_of(path: Path) -> Any:
    """The course of a piece that is there, for `Performer.generate`."""
    from ritornello import codec
    from ritornello.midi import read_midi

    piece = read_midi(path)
    if not len(piece):
        raise RitornelloError(f"{path}: has no notes, and so no course; give a piece with notes")
    return steering.course_of(codec.encode(piece))


@app.command("continue", epilog="Example: ritornello continue mine.mid longer.mid --prompt-seconds 30 --minutes 2")
@with_options(player=Player, files=Outputs)
def continue_piece(
    source: Annotated[Path, typer.Argument(metavar="IN.mid", help="The performance to go on from.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.mid", help="The MIDI file to write: prompt and continuation.")],
    prompt_seconds: Annotated[float | None, typer.Option(help="Use this much of IN.mid; all if not given.")] = None,
    minutes: Minutes = 2.0,
    only_new: Annotated[bool, typer.Option("--only-new", help="Leave the prompt out of what is written.")] = False,
    full_length: FullLength = False,
    force: Annotated[bool, typer.Option("--force", help="Write over IN.mid where OUT.mid is the same file.")] = False,
    *,
    player: Player,
    files: Rendered,
) -> None:
    """Go on from a piece."""
    from ritornello.midi import read_midi

    seed, piece = player.seeded(), read_midi(source)
    prompt_s = piece.seconds if prompt_seconds is None else min(prompt_seconds, piece.seconds)
    files = files.checked(out, prompt_s + minutes * 60, source=source, force=force)
    performer = player.load(minutes * 60)
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
    _write(performance, title, out, files, seed, performer.engine.trained_on, stop())


def _write(
    performance: Any,
    title: str,
    out: Path,
    files: Rendered,
    seed: int,
    trained_on: dict[str, Any],
    stopped: bool,
) -> None:
    if stopped and not len(performance.piece):
        console.print("stopped before there was a note; nothing is written")
        raise typer.Exit(130)
    # A file name may hold bytes that are no text; a title may not.
    piece = replace(performance.piece, title=title.encode("utf-8", "replace").decode())
    if files.pedal:
        piece = piece.with_pedal(performance.prompt_s)
    piece.write(out)
    for name, path in files.files().items():
        if name == "wav":
            with music_bar(piece.seconds) as progress:
                wav.write(piece, path, files.soundfont, progress=progress)
        else:
            FORMATS[name].write(piece, path, split_s=performance.prompt_s or None)
    figures = {
        "file": str(out),
        **{name: str(path) for name, path in files.files().items()},
        **({"soundfont": str(files.soundfont)} if files.soundfont else {}),
        "seconds": round(piece.seconds, 2),
        "prompt_seconds": round(performance.prompt_s, 2),
        "notes": len(piece),
        "tokens": performance.tokens,
        "seed": seed,
        "ended": performance.ended,
        "pieces": performance.pieces,
        "weights_trained_on": trained_on.get("name", ""),
        "weights_licence": trained_on.get("licence", ""),
    }
    if files.as_json:
        print(json.dumps(figures))
    else:
        end = ", ended by the model" if performance.ended else ", stopped" if stopped else ""
        several = f" in {performance.pieces} pieces" if performance.pieces > 1 else ""
        console.print(f"{out}: {clock(piece.seconds)}{several}, {counted(len(piece), 'notes')}, seed {seed}{end}")
        if not len(piece):
            console.print("it has no note: let it be longer, or take another --seed, or a higher --top-p")
        if trained_on.get("licence"):
            console.print(
                f"the model's weights were trained on {trained_on['name']}: {trained_on['licence']}", style="dim"
            )
    if stopped:
        raise typer.Exit(130)
