"""Where the figures of a study's runs are kept: one JSON for each row and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ritornello.errors import RitornelloError

BEGINNING_TOKENS = 1024  # of every validation piece: what the PerceiverS paper's first experiment is about
BLOCK_TOKENS = 256  # each piece's likelihood is kept in stretches of this length

Result = dict[str, Any]  # the figures of one run, as `ritornello.studies.measuring` writes them


def result_path(out: Path, row: str, seed: int) -> Path:
    """Where the figures of a run are."""
    return out / "runs" / f"{run_name(row, seed)}.json"


def training_path(out: Path, row: str, seed: int) -> Path:
    """Where a run's checkpoints and log are."""
    return out / "training" / run_name(row, seed)


def run_name(row: str, seed: int) -> str:
    """A row and a seed as the name of a file or folder."""
    words = "".join(c if c.isalnum() else "-" for c in row.lower()).replace("--", "-")
    return f"{words}-seed-{seed}"


def read_results(out: Path, study: str) -> list[Result]:
    """The figures of every finished run.

    Raises:
        RitornelloError: where there are none, a file is no run's, or they are of another study.
    """
    results = [_read(path) for path in sorted((out / "runs").glob("*-seed-*.json"))]
    if not results:
        raise RitornelloError(f"{out}: no run of a study is finished here; start one with 'ritornello study run'")
    for result in results:
        found = result["settings"].get("study", "dsmr")  # which had no name while it was the only one
        if found != study:
            raise RitornelloError(
                f"{out}: holds runs of the study {found}, not of {study}; name that, or another folder"
            )
    return results


def _read(path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        result = None
    if not isinstance(result, dict) or "settings" not in result:
        raise RitornelloError(f"{path}: is not the figures of a run; remove it, and 'ritornello study run' makes it")
    return result
