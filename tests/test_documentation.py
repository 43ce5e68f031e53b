"""The documents: the site builds without a broken link, and the program understands every command in them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from ritornello import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    """Lines that begin with the program's name, of all pages but the notebook's, which are of their day."""
    pages = [page for page in PAGES if page.is_file() and page.parent.name != "notebook"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    lines = (re.sub(r"^.*?ritornello ", "ritornello ", line.strip()) for line in text.splitlines() if is_command(line))
    return sorted(set(lines))


def is_command(line: str) -> bool:
    return bool(re.match(r"(\s*|.*[/\\]|\s*uvx .*)ritornello [a-z]+( |$)", line)) and not line.lstrip().startswith(
        ("|", "-")
    )


def context_of(words: list[str]) -> Any:
    """Parses a command as the program does. Raises what it raises for an argument or option that it has not."""
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and words:
        command = command.commands[words.pop(0)]
    return command.make_context("ritornello", words)


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_documents_is_understood(line: str) -> None:
    words = shlex.split(line.split(">")[0].split("&&")[0], comments=True)
    context_of(words[1:])


def test_a_command_that_is_none_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        context_of(["generate", "piece.mid", "--minuets", "3"])


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra docs")
    if not (ROOT / "mkdocs.yml").is_file():
        pytest.skip("the site's sources are not in a source distribution")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/cli/index.html").read_text(encoding="utf-8")
    assert "ritornello study run" in page
    assert "--takeover" in page
    assert (tmp_path / "site/play/model/web.json").is_file()
    assert 'href="play/"' in (tmp_path / "site/index.html").read_text(encoding="utf-8")
