"""Peak memory above idle, and processes of their own: what every measurement shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ritornello.errors import RitornelloError
from ritornello.workers import peak_resident_bytes

if TYPE_CHECKING:
    import torch


class Meter:
    """The peak memory of a device since now, above what was in use now.

    On CUDA it is what torch's allocator has given out. Elsewhere it is the resident size of this process, which only a
    fresh process can tell: the peak of a process never falls.

    Raises:
        RitornelloError: where a process cannot be asked for its peak.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self.baseline_bytes = torch.cuda.memory_allocated(device)
        else:
            self.baseline_bytes = resident_bytes("VmRSS")

    def peak_bytes(self) -> int:
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device) - self.baseline_bytes
        return resident_bytes("VmHWM") - self.baseline_bytes


def in_fresh_process(arguments: list[str]) -> dict[str, Any]:
    """What another Python prints as its last line of output: a JSON object, made by `answer`.

    Raises:
        RitornelloError: where the process was killed, or answers with an error of the user's.
        RuntimeError: where it failed otherwise; with what it wrote.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command, (stdin, open_while_we_live) = [sys.executable, *arguments], os.pipe()
    try:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, env=environment, check=False)
    finally:
        os.close(stdin)
        os.close(open_while_we_live)
    if done.returncode < 0:
        raise RitornelloError(
            f"the measuring process was killed by signal {-done.returncode}, for want of memory as a rule; "
            "give it fewer --lanes or a shorter --piece"
        )
    if done.returncode:
        raise RuntimeError(f"the measuring process failed:\n{done.stderr}")
    reply: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in reply:
        raise RitornelloError(reply["error"])
    return reply


def answer(measure: Callable[[], Mapping[str, Any]]) -> None:
    """Prints figures, or the user's error in their place, for `in_fresh_process` to read."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        reply = dict(measure())
    except RitornelloError as error:
        reply = {"error": str(error)}
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; not everything measured here knows torch
            raise
        reply = {"error": "the device's memory is full; give it fewer --lanes or a shorter --piece"}
    print(json.dumps(reply))


def _die_with_parent() -> None:
    # However it ends, its side of the pipe is closed: nobody measures on for nobody, with gigabytes.
    os.read(0, 1)
    os._exit(1)


def resident_bytes(field: str) -> int:
    """Of this process, now (``VmRSS``) or at its peak (``VmHWM``); the peak for both where the system says no more."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except OSError:
        # Not where it can be helped: on Linux it begins with the size of the process that started this one.
        peak = peak_resident_bytes()
    if peak is None:
        raise RitornelloError("this system does not tell a process's peak memory; use Linux, macOS or CUDA")
    return peak
