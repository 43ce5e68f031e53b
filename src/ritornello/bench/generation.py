"""What playing costs: speed, delay and memory of an engine, each measured in a fresh process.

Events are drawn as a player draws them: model, grammar and sampling. Memories are full when measuring begins.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ritornello import codec
from ritornello.bench.meter import answer, in_fresh_process, resident_bytes
from ritornello.charts import COLOURS, INK, in_house_look, new_figure, save
from ritornello.errors import check_limits

MARK_SHARE = 0.1  # of the stream, before resident memory is noted for its growth
BANDWIDTH_BYTES = 1 << 28


@dataclass(frozen=True)
class Setting:
    """What is played. Raises RitornelloError for a number outside its limits."""

    model: str
    engine: str
    tokens: int
    """events that are timed"""
    position: int = 0
    """tokens of the piece that came before; what the memories hold is read, the rest is taken as read"""
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_limits(tokens=(self.tokens, 10, 10**9), position=(self.position, 0, 10**12))
        check_limits(threads=(self.threads, 1, 1024))


@dataclass(frozen=True)
class Measurement:
    """What one process saw."""

    first_note_s: float
    """from the start of the process to the first key struck, Python's own start and loading included"""
    tokens_per_s: float
    real_time_factor: float
    """seconds of music per second"""
    p50_ms: float
    p99_ms: float
    slowest_ms: float
    peak_bytes: int
    """resident, of the whole process, Python and libraries included"""
    grown_bytes: int
    """resident memory at the end less that after a tenth of the stream"""
    state_bytes: int
    weight_bytes: int
    """read for each token, as the engine holds them"""
    threads: int
    bandwidth_bytes_per_s: float
    """that reading large arrays with the same number of threads reached, just after"""

    @property
    def touched_bytes(self) -> int:
        """Weights and state, read once per token."""
        return self.weight_bytes + self.state_bytes

    @property
    def bandwidth_share(self) -> float:
        """Of the measured bandwidth that reading weights and state at this speed makes."""
        return self.touched_bytes * self.tokens_per_s / self.bandwidth_bytes_per_s

    def figures(self) -> dict[str, Any]:
        return asdict(self) | {"touched_bytes": self.touched_bytes, "bandwidth_share": self.bandwidth_share}


def measure(setting: Setting) -> Measurement:
    """Measures in processes of their own. Raises RitornelloError where the engine or its model cannot be loaded."""
    order = json.dumps({"setting": asdict(setting), "started": time.time()})
    playing = in_fresh_process(["-m", "ritornello.bench.generation", order])
    read = in_fresh_process(["-m", "ritornello.bench.generation", json.dumps({"threads": playing["threads"]})])
    return Measurement(**playing, **read)


def bandwidth(threads: int, *, array_bytes: int = BANDWIDTH_BYTES, rounds: int = 5) -> float:
    """Bytes per second that as many threads read together, each a large array of its own: the best of some rounds."""
    arrays = [np.ones(array_bytes // threads // 4, np.float32) for _ in range(threads)]

    def read_all() -> None:
        workers = [threading.Thread(target=lambda a=array: np.dot(a, a)) for array in arrays]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return sum(array.nbytes for array in arrays) / min(_seconds(read_all) for _ in range(rounds))


def _measured(setting: Setting, started: float) -> dict[str, Any]:
    from ritornello.performing import Performer, load

    performer = load(setting.model, engine=setting.engine, threads=setting.threads)
    rng = np.random.default_rng(setting.seed)
    next(token for token, _ in performer.events(rng, may_end=False) if token < codec.NOTE_OFF)
    first_note_s = time.time() - started
    state_bytes = performer.engine.begin().nbytes
    late: Any = _Late(performer.engine, setting.position)
    stream = Performer(late, performer.sampling).events(rng, may_end=False)
    next(stream)
    # Filled, so that the system gives all of it now: what grows later is not the measurement's own.
    latency_s, before_s, now_s = np.full(setting.tokens, np.nan, np.float32), 0.0, 0.0
    mark, resident = int(setting.tokens * MARK_SHARE), 0
    clock = begun = time.perf_counter()
    for n in range(setting.tokens):
        _, now_s = next(stream)
        before_s = before_s or now_s
        later = time.perf_counter()
        latency_s[n], clock = later - clock, later
        if n == mark:
            resident = resident_bytes("VmRSS")
    spent_s = clock - begun
    grown_bytes = resident_bytes("VmRSS") - resident  # before quantiles take memory of their own
    return {
        "first_note_s": first_note_s,
        "tokens_per_s": setting.tokens / spent_s,
        "real_time_factor": (now_s - before_s) / spent_s,
        "p50_ms": float(np.quantile(latency_s, 0.5)) * 1e3,
        "p99_ms": float(np.quantile(latency_s, 0.99)) * 1e3,
        "slowest_ms": float(latency_s.max()) * 1e3,
        "peak_bytes": resident_bytes("VmHWM"),
        "grown_bytes": grown_bytes,
        "state_bytes": state_bytes,
        "weight_bytes": performer.engine.weight_bytes,
        "threads": performer.engine.threads,
    }


class _Late:
    """An engine whose sessions begin late in a piece, with full memories."""

    def __init__(self, engine: Any, position: int) -> None:
        self._engine, self._position = engine, position

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def begin(self) -> Any:
        fill = self._engine.memory_tokens
        session = self._engine.begin(max(0, self._position - fill))
        session.read(np.random.default_rng(0).integers(0, codec.N_EVENTS, fill))
        return session


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@in_house_look
def draw_generation(measured: Mapping[str, Measurement], path: Path) -> None:
    """Draws tokens/s and the delay of a token for every engine.

    Raises:
        RitornelloError: where matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(9.5, 1.4 + 0.5 * len(measured))
    speed, delay = figure.subplots(1, 2, sharey=True)
    rows, names, engines = range(len(measured)), list(measured), measured.values()
    bars = speed.barh(rows, [m.tokens_per_s for m in engines], height=0.6, color=COLOURS[1])
    speed.bar_label(
        bars, [f"{m.tokens_per_s:,.0f}  ({m.real_time_factor:.1f} x real time)" for m in engines], padding=4
    )
    speed.set_xlim(0, 1.7 * max(m.tokens_per_s for m in engines))
    speed.set_title("played, tokens/s")
    delay.hlines(rows, [m.p50_ms for m in engines], [m.p99_ms for m in engines], color=COLOURS[1], linewidth=5)
    delay.plot([m.p50_ms for m in engines], rows, "o", color=INK)
    delay.plot([m.p99_ms for m in engines], rows, "|", color=INK, markersize=14)
    delay.set_xlim(0, 1.25 * max(m.p99_ms for m in engines))
    delay.set_title("ms a token: median (o), 99th percentile (|)")
    speed.set_yticks(rows, names)
    speed.invert_yaxis()
    for axes in (speed, delay):
        axes.grid(visible=False, axis="y")
    save(figure, path)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "setting" in given:
        answer(lambda: _measured(Setting(**given["setting"]), given["started"]))
    else:
        answer(lambda: {"bandwidth_bytes_per_s": bandwidth(given["threads"])})
