"""The notebooks: each runs from top to bottom in a kernel of its own, on less music; none is stored with outputs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "docs/tutorials"
LESS = {
    "first-piece": "SECONDS = 11",
    "train-your-own": "PIECES, SECONDS, STEPS = 5, 3, 20",
    "compare-schedules": "PIECES, SECONDS, STEPS, SEEDS = 5, 3, 2, 2",
}
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the notebooks are not in a source distribution")


def outputs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Runs a notebook as its reader would, its parameters apart; what it shows, as (MIME type, content)."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (place,) = (i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(LESS[name]))
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    of_cells = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert not [output for output in of_cells if output.get("name") == "stderr"]
    shown = [pair for output in of_cells for pair in output.get("data", {"stream": output.get("text")}).items()]
    return [(kind, content) for kind, content in shown if content]


def test_a_first_piece_is_seen_and_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = outputs("first-piece", tmp_path, monkeypatch)
    assert [kind for kind, _ in shown].count("image/png") == 3
    (sound,) = (content for kind, content in shown if kind == "text/html")
    assert "audio/" in sound
    assert (tmp_path / "first.mid").is_file()


def test_ones_own_files_are_trained_on_and_what_was_learnt_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "".join(text for kind, text in outputs("train-your-own", tmp_path, monkeypatch) if kind == "stream")
    nats = {name: float(figure) for name, figure in re.findall(r"(\w+): ([\d.]+) nats/token", said)}
    assert list(nats) == ["yours", "base"]
    assert nats["base"] < nats["yours"] < math.log(388)


def test_a_schedule_is_compared_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, (_, table) = outputs("compare-schedules", tmp_path, monkeypatch)
    rows = [line.split(" | ") for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| hourglass", "| two-scale", "| uniform", "| no memory"]
    assert rows[1][2] == "+0.0000, +0.0000 |"


def test_every_notebook_is_tested_and_stored_without_what_it_showed() -> None:
    books = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.ipynb")}
    assert books.keys() == LESS.keys()
    for book in books.values():
        for cell in book["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
