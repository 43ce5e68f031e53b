"""``duet``."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from ritornello.cli.common import app, clock, console, stopping, with_options
from ritornello.cli.playing import Player
from ritornello.errors import RitornelloError, counted
from ritornello.files import check_writable

LIST = "list"
SHOW_S = 0.1  # between two pictures of the monitor
ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # a kill; a closed terminal


class Takeover(str, Enum):
    """What gives the model its turn."""

    silence = "silence"
    pedal = "pedal"
    key = "key"


class Handback(str, Enum):
    """What ends it."""

    key = "key"
    pedal = "pedal"


@app.command(epilog="Example: ritornello duet --in piano --out piano --takeover silence --record duet.mid")
@with_options(player=Player)
def duet(
    source: Annotated[
        str, typer.Option("--in", help="The MIDI port you play on, or a part of its name; list, or virtual.")
    ] = LIST,
    target: Annotated[str, typer.Option("--out", help="The MIDI port that the model plays on.")] = LIST,
    takeover: Annotated[
        Takeover, typer.Option(help="The model's turn: after a silence, when the pedal comes up, or with --key.")
    ] = Takeover.silence,
    key: Annotated[int, typer.Option(help="The MIDI pitch that gives the turn with --takeover key.")] = 21,
    handback: Annotated[
        Handback, typer.Option(help="What ends the model's turn: any key, or your pedal as well as any key.")
    ] = Handback.key,
    record: Annotated[Path | None, typer.Option(help="Write here what you both played, a track each.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop then; else with Ctrl-C.")] = None,
    send_clock: Annotated[float | None, typer.Option(help="Send MIDI clock at so many beats a minute.")] = None,
    *,
    player: Player,
) -> None:
    """Play, stop, and the model goes on; strike a key and it is your turn again."""
    from ritornello import live

    if LIST in (source, target):
        for option, there in zip(("--in", "--out"), live.listed()):
            print(f"{option}: {', '.join(there) or 'no ports'}")
        return
    if send_clock is not None and not 20 <= send_clock <= 400:
        raise RitornelloError(f"a clock of {send_clock:g} beats a minute; it must lie between 20 and 400")
    if record is not None:
        check_writable(record)
    from ritornello.duet import Duet
    from ritornello.midi import write_midi

    seed, performer = player.seeded(), player.load()
    inbox: SimpleQueue[Any] = SimpleQueue()
    ports = live.Ports(source, target, inbox.put)
    playing = Duet(
        performer,
        live.sender(ports),
        seed=seed,
        takeover=takeover.value,
        key=key,
        handback=handback.value,
    )
    until_s = time.monotonic() + minutes * 60 if minutes is not None else float("inf")
    try:
        with live.guarded(target), stopping(*ENDS) as stop, _monitor(playing, seed) as monitor:
            live.run(
                playing,
                inbox,
                ports,
                stop=lambda: stop() or time.monotonic() >= until_s,
                look=ports.look,
                beats_per_minute=send_clock,
                monitor=monitor,
            )
    finally:
        ports.close()
        if record is not None and playing.notes:
            write_midi(playing.pieces(), record)
    delays = playing.delays
    console.print(
        f"{counted(len(playing.notes), 'notes')}, "
        + counted(len(delays.takeovers), "turns of the model's")
        + (f", its first key {max(delays.takeovers) * 1000:.0f} ms after its time at most" if delays.takeovers else "")
        + (f"; {record}" if record else "")
    )


@contextmanager
def _monitor(playing: Any, seed: int) -> Iterator[Callable[[], None]]:
    """Shows who plays, in the terminal."""
    shown_s = began_s = time.monotonic()
    with Live(console=console, transient=True, auto_refresh=False) as screen:

        def show() -> None:
            nonlocal shown_s
            now_s = time.monotonic()
            if now_s - shown_s < SHOW_S or not console.is_terminal:
                return
            shown_s = now_s
            who = f"model, {playing.reserve_s:.1f} s ahead" if playing.playing else "you"
            late = f"late {playing.delays.latest * 1000:.0f} ms at most"
            keys = "".join("#" if playing.sounds(pitch) else "." for pitch in range(21, 109))
            words = f"{clock(now_s - began_s)}  {who:<20} {late}, seed {seed}"
            screen.update(Text(f"{keys}\n{words}"), refresh=True)

        yield show
