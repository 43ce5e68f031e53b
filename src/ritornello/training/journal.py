"""What a run writes down while it goes: one JSON line per event, and TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ritornello.errors import RitornelloError
from ritornello.files import write_whole


class Journal:
    """``log.jsonl`` and ``tensorboard/`` of a run's folder.

    Args:
        run: the folder.
        after_step: events of later steps are dropped: a resumed run writes them again.
    """

    def __init__(self, run: Path, *, after_step: int) -> None:
        self._path = run / "log.jsonl"
        kept = [line for line in read_journal(run) if line["step"] <= after_step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = _tensorboard(run / "tensorboard", after_step)

    def write(self, step: int, **values: Any) -> None:
        """One event; numbers go to TensorBoard too."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                if self._board is not None and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RitornelloError(f"{self._path}: cannot be written ({error.strerror}); free some space") from None

    def close(self) -> None:
        """Flushes TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def read_journal(run: Path) -> list[dict[str, Any]]:
    """The events of a run; a last line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.is_file():
        return []
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


def _tensorboard(folder: Path, after_step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder), purge_step=after_step + 1)
    except UnicodeEncodeError:  # TensorBoard takes no name that is no text; the log does
        return None
    except OSError as error:
        raise RitornelloError(f"{folder}: cannot be written ({error.strerror}); free some space") from None
