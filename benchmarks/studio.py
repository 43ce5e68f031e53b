"""The studio by the clock: how soon it sounds, whether it runs dry, how fast it plays, how large it is.

    pip install -e '.[studio]' playwright
    python benchmarks/studio.py [--runs 5] [--minutes 10] [--seconds 60] [--model base]

prints one JSON object, in a headless Chromium (of the system):

first: from the beginning of the page's loading to the first sound that leaves the piano, in seconds, with the server
    (`ritornello studio`) and from a static host (`export --web`); each time with a new server and a browser that has
    nothing stored. Play is pressed as soon as there is a player.
minutes: so many of new music at default sampling, played by the clock with either engine: how often it had to wait
    (``underruns``), notes that came too late to be struck (``lost``), and the server's resident megabytes.
speed: tokens a second and times real time of the engine in the browser and of Python's, one after the other.
size: megabytes of the wheel, and of what the extra ``studio`` installs beyond the base, as it is installed here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from playwright.sync_api import Page, sync_playwright

from ritornello import codec
from ritornello.notes import Piece
from ritornello.performing import load
from ritornello.studio.static import write_web

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOUD = 0.005  # of full scale
# In the page from its first moment on: presses Play once there is a player, and says when the piano is heard.
PRESS = f"""
const seconds = () => performance.now() / 1000;
window.times = {{struck: 0}};
const look = () => {{
  const {{studio, times}} = window;
  if (studio?.maker.live?.stream && !times.pressed) {{
    times.pressed = seconds();
    const {{strike}} = studio.transport;
    studio.transport.strike = (...note) => {{ times.struck++; return strike(...note); }};
    document.querySelector('#play').click();
  }}
  if (times.pressed) {{
    const wave = new Float32Array(studio.piano.analyser.fftSize);
    studio.piano.analyser.getFloatTimeDomainData(wave);
    if (wave.some((value) => Math.abs(value) > {LOUD})) {{
      times.sounded = seconds();
      return;
    }}
  }}
  setTimeout(look, 2);
}};
look();
"""
PLAYED = """(() => {
  const {transport, session} = studio, {position, next, underruns} = transport;
  transport.pause();
  const due = session.piece.notes.filter(({start}) => start < next).length;
  return {position, underruns, notes: due, lost: due - times.struck};
})()"""
PLAY = """async ({seed, until}) => {
  const play = async (seconds) => {
    const stream = await studio.maker.engine.start({seed});
    const notes = [], began = performance.now();
    await new Promise((resolve, reject) => {
      stream.on('notes', (message) => { notes.push(...message.notes); if (message.upTo >= seconds) resolve(); });
      stream.on('end', resolve);
      stream.on('error', reject);
      stream.advance(seconds);
    });
    const took = (performance.now() - began) / 1000;
    stream.close();
    return {took, notes: notes.map(({start, end, pitch, velocity}) => [start, end, pitch, velocity])};
  };
  studio.maker.stop();
  await play(5);
  return play(until);
}"""


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pages opened with each engine")
    parser.add_argument("--minutes", type=float, default=10.0, help="that each engine plays")
    parser.add_argument("--seconds", type=float, default=60.0, help="of music, to measure speed")
    parser.add_argument("--model", default="base")
    options = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        web = Path(folder) / "web"
        write_web(options.model, web)
        served = {"remote": lambda: studio(options.model), "local": lambda: static_host(web)}
        parts = {
            "size": (lambda: size(Path(folder)), True),
            "first": (lambda: {name: first(serve, options.runs) for name, serve in served.items()}, options.runs),
            "speed": (lambda: speed(served["local"], options.model, options.seconds), options.seconds),
            "minutes": (
                lambda: {name: minutes(serve, options.minutes) for name, serve in served.items()},
                options.minutes,
            ),
        }
        for part, (measure, wanted) in parts.items():
            if wanted:
                figures[part] = measure()
                print(f"{part}: {json.dumps(figures[part])}", file=sys.stderr, flush=True)
    print(json.dumps(figures, indent=2))


@contextmanager
def studio(model: str) -> Iterator[tuple[str, int]]:
    """The address of ``ritornello studio``, and its process."""
    command = [sys.executable, "-m", "ritornello", "studio", "--no-open", "--port", "0", "--model", model]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"http://\S+?/", said)):
            line = process.stderr.readline()
            if not line:
                raise SystemExit(said)
            said += line
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def static_host(folder: Path) -> Iterator[tuple[str, int]]:
    """The address at which a folder is given out, and the process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/", process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def opened(address: str, seed: int) -> Iterator[Page]:
    """A page of a new browser, in which Play is pressed."""
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=options)
        page = browser.new_page()
        page.add_init_script(PRESS)
        page.goto(f"{address}#seed={seed}")
        while not page.evaluate("times.sounded"):
            page.wait_for_timeout(100)
        yield page
        browser.close()


def first(serve: Callable[[], Any], runs: int) -> dict[str, Any]:
    """How soon the first sound comes."""
    rows = []
    for seed in range(runs):
        with serve() as (address, _), opened(address, seed) as page:
            rows.append(page.evaluate("times"))
    return {
        "sounded_s": [round(row["sounded"], 3) for row in rows],
        "median_s": round(statistics.median(row["sounded"] for row in rows), 3),
        "most_s": round(max(row["sounded"] for row in rows), 3),
        "pressed_s": [round(row["pressed"], 3) for row in rows],
    }


def minutes(serve: Callable[[], Any], count: float) -> dict[str, Any]:
    """What happens while it plays that long."""
    with serve() as (address, process), opened(address, 1) as page:
        before = resident_mb(process)
        page.wait_for_timeout(count * 60_000)
        played = page.evaluate(PLAYED)
        return {**played, "resident_mb": [before, resident_mb(process)]}


def resident_mb(process: int) -> float | None:
    """What a process holds in memory; None where the system does not say."""
    status = Path(f"/proc/{process}/status")
    return round(int(status.read_text().split("VmRSS:")[1].split()[0]) / 1e3, 1) if status.exists() else None


def speed(serve: Callable[[], Any], model: str, seconds: float) -> dict[str, Any]:
    """Of both engines, by turns, with one thread each as in the browser."""
    performer = load(model, threads=1)
    performer.generate(seconds=5, seed=1)
    rows: dict[str, list[dict[str, float]]] = {"browser": [], "python": []}
    for seed in range(3):
        with serve() as (address, _), opened(address, seed) as page:
            page.evaluate("studio.transport.pause()")
            played = page.evaluate(PLAY, {"seed": seed, "until": seconds})
        rows["browser"].append(rates(Piece.from_notes(played["notes"]), played["took"]))
        began = time.perf_counter()
        piece = performer.generate(seconds=seconds + 20, seed=seed).piece
        rows["python"].append(rates(piece, time.perf_counter() - began))
    middle = {
        name: {key: round(statistics.median(row[key] for row in runs), 2) for key in runs[0]}
        for name, runs in rows.items()
    }
    ratio = middle["browser"]["tokens_per_s"] / middle["python"]["tokens_per_s"]
    return {**middle, "browser_to_python": round(ratio, 3), "runs": rows}


def rates(piece: Piece, took_s: float) -> dict[str, float]:
    """Tokens in a second, and seconds of music."""
    return {"tokens_per_s": len(codec.encode(piece)) / took_s, "times_real_time": piece.seconds / took_s}


def size(folder: Path) -> dict[str, Any]:
    """The wheel as it would be published, and what stands in this environment because of the extra."""
    project = Path(__file__).parents[1]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(project)]
    subprocess.run(build, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    base, more = closure("ritornello", set()), closure("ritornello", {"studio"})
    return {
        "wheel_mb": round(wheel.stat().st_size / 1e6, 2),
        "base_mb": round(sum(map(installed, base - {"ritornello"})) / 1e6, 1),
        "extra_mb": {name: round(installed(name) / 1e6, 2) for name in sorted(more - base)},
        "extra_in_all_mb": round(sum(map(installed, more - base)) / 1e6, 2),
    }


def closure(name: str, extras: set[str]) -> set[str]:
    """A distribution and all that it needs, as far as it is installed."""
    seen: dict[str, set[str]] = {}
    todo = [(name, extras)]
    while todo:
        name, extras = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in seen and extras <= seen[name]:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        seen[name] = seen.get(name, set()) | extras
        for needed in map(Requirement, requires):
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                todo.append((needed.name, set(needed.extras)))
    return set(seen)


def installed(name: str) -> int:
    """Bytes of a distribution's files."""
    files = distribution(name).files or []
    return sum(path.stat().st_size for path in (Path(str(file.locate())) for file in files) if path.is_file())


if __name__ == "__main__":
    main()
