"""What a run writes down while it goes: one JSON line per event, TensorBoard where it is installed, and trackers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ritornello.errors import RitornelloError
from ritornello.files import write_whole

Tracker = Callable[[int, Mapping[str, float]], None]
"""Called with a step and its figures, as the log has them: ``tokens`` predicted and ``seconds`` so far, and ``nats``
per token of the latest steps or ``validation`` nats per token."""


class Journal:
    """``log.jsonl`` and ``tensorboard/`` of a run's folder.

    Args:
        run: the folder.
        after_step: events of later steps are dropped: a resumed run writes them again.
        trackers: called with every event.
    """

    def __init__(self, run: Path, *, after_step: int, trackers: Sequence[Tracker] = ()) -> None:
        self._path, self._trackers = run / "log.jsonl", trackers
        earlier = [line for line in read_journal(run) if line["step"] <= after_step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in earlier))
        self._board = _tensorboard(run / "tensorboard", after_step)

    def write(self, step: int, **values: float) -> None:
        """One event."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RitornelloError(f"{self._path}: cannot be written ({error.strerror}); free some space") from None
        for tracker in self._trackers:
            tracker(step, values)

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
