"""``studio``."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from ritornello.cli.common import app, console
from ritornello.cli.playing import DEFAULT_MODEL, EngineName, Model, Threads
from ritornello.engines import DEFAULT_ENGINE
from ritornello.errors import RitornelloError


@app.command(epilog="Example: ritornello studio --model runs/mine --port 8080")
def studio(
    model: Model = DEFAULT_MODEL,
    port: Annotated[int, typer.Option(help="Of the page; 0 for any that is free.", min=0, max=65535)] = 8765,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    host: Annotated[str, typer.Option(help="Address to be reached at; this machine alone if not given.")] = "127.0.0.1",
    token: Annotated[str | None, typer.Option(help="What pages must know; made up for other addresses.")] = None,
    engine: EngineName = DEFAULT_ENGINE,
    threads: Threads = None,
) -> None:
    """Open the studio: a page to play, continue, do again and choose on, without a network."""
    import webbrowser

    try:
        from ritornello.studio import server
    except ModuleNotFoundError as missing:
        raise RitornelloError(
            f"the studio needs the package {missing.name}; install it with: pip install 'ritornello[studio]'"
        ) from None
    from ritornello.performing import load

    if token is None and host not in (*server.LOOPBACK, "::1"):
        token = secrets.token_urlsafe(16)
    performer = load(model, engine=engine, threads=threads)

    def ready(address: str) -> None:
        console.print(f"the studio is open at {address}; Ctrl+C closes it")
        most = server.MAX_SESSIONS * (server.MAX_VOICES + server.MAX_MOMENTS)
        voice = f"{server.about(performer)['stateBytes'] / 1e6:.1f} MB for each voice that plays"
        console.print(f"memory: {voice}, at most {most} times that ({server.MAX_SESSIONS} pages)", style="dim")
        if open_page:
            webbrowser.open(address)

    server.serve(performer, host=host, port=port, token=token, ready=ready)
