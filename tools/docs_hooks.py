"""For mkdocs: writes the command line's reference from the program, and puts the studio beside the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ritornello.cli import app
from ritornello.studio.static import write_web

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Every verb with its arguments, options and example, where a page asks for it."""
    return markdown.replace(MARK, commands(typer.main.get_command(app), "ritornello")) if MARK in markdown else markdown


def on_post_build(config: Any, **_: Any) -> None:
    """The studio with the bundled model, in ``play/``: it runs in the browser of whoever opens it."""
    write_web("base", Path(config["site_dir"]) / "play")


def commands(command: Any, name: str) -> str:
    """A section for each verb, those of groups included."""
    if hasattr(command, "commands"):
        return "\n\n".join(commands(verb, f"{name} {its_name}") for its_name, verb in command.commands.items())
    rows = []
    for parameter in command.params:
        names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name}`"
        rows.append(f"| {names} | {_cell(getattr(parameter, 'help', None))} | {_cell(_default(parameter))} |")
    parts = [f"## {name}", command.help or "", "| | | default |\n|---|---|---|\n" + "\n".join(rows)]
    example = (command.epilog or "").removeprefix("Example: ")
    return "\n\n".join([*parts, *([f"    {example}"] if example else [])])


def _default(parameter: Any) -> str:
    default = parameter.default
    if default is None or default is False or default == [] or callable(default):
        return ""
    return str(getattr(default, "value", default))


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")
