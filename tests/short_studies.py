"""What makes a study short, and reads its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ritornello.studies import measuring


def play_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time what a token costs after fewer tokens, and fewer of them."""
    for name, value in (("PLAYED_BEFORE_TOKENS", 128), ("STRETCHES", 2), ("STRETCH_TOKENS", 16)):
        monkeypatch.setattr(measuring, name, value)


def table_below(report: str, heading: str) -> dict[str, list[str]]:
    """Cells by row of the first table after a heading."""
    lines = report.split(heading)[1].split("\n| --- |")[1].split("\n")[1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {line[0]: line[1:] for line in cells}


def assert_drawn(picture: Path) -> None:
    """A picture of some size in many colours."""
    with Image.open(picture) as image:
        assert min(image.size) > 50
        assert len(set(image.convert("RGB").resize((200, 80)).tobytes())) > 20
