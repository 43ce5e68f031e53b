"""Where the figures of a study's runs are kept: one JSON for each row and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ritornello.errors import RitornelloError

Result = dict[str, Any]  # the figures of one run, as `ritornello.studies.measuring` writes them


def result_path(out: Path, row: str, seed: int) -> Path:
    """Where the figures of a run are."""
    return out / "runs" / f"{run_name(row, seed)}.json"


def run_name(row: str, seed: int) -> str:
    """A row and a seed as the name of a file or folder."""
    words = "".join(c if c.isalnum() else "-" for c in row.lower()).replace("--", "-")
    return f"{words}-seed-{seed}"


def read_results(out: Path) -> list[Result]:
    """The figures of every finished run.

    Raises:
        RitornelloError: where there are none, or a file is no run's.
    """
    results = [_read(path) for path in sorted((out / "runs").glob("*-seed-*.json"))]
    if not results:
        raise RitornelloError(f"{out}: no run of a study is finished here; start one with 'ritornello study run'")
    return results


def _read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict) or "evaluation" not in result:
        raise RitornelloError(f"{path}: is not the figures of a run; remove it, and 'ritornello study run' makes it")
    return result
