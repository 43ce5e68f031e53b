"""Killed, out of disk, or shut out of their folder at random moments: what do the commands leave behind?

    python benchmarks/harms.py --times 100
    python benchmarks/harms.py --harm full --times 20 --folder SMALL_DISK
    python benchmarks/harms.py --harm locked --times 20

`generate`, `export` and `data prepare` run again and again into a folder where an earlier result lies, and come to harm
after a random time: killed (-9), or the folder becomes read-only (for root by `chattr +i`, which Linux's ext4 and
others know), or only a random part of the room that a result needs is free. Afterwards the earlier result, or a whole
new one, must be there, to the last byte; beside it at most hidden files in the making, and none on a full disk; and
who was not killed ends well or with an error. `train` is harmed again and again and resumed; after each harm its last
checkpoint must load and be no older than before, and at its end it must equal, to the bit, a training without harm.

SMALL_DISK is a file system of its own with some 30 MB free: mount -t tmpfs -o size=30m none SMALL_DISK
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from ritornello import cli
from ritornello.checkpoint import load_checkpoint
from ritornello.engines import exported, framework  # noqa: F401 (loaded once, not in each process)
from ritornello.notes import Piece
from ritornello.training import loop  # noqa: F401

FORK = multiprocessing.get_context("fork")
STEPS = 20
Harm = Callable[[list[str], Path, float, int, random.Random], str]
"""does a command and harms it: its words, the folder, how long it takes, the bytes it writes; gives what it said"""


def main() -> None:
    """Harms, looks, and prints JSON; exits 1 where something half-written was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harm", choices=HARMS, default="killed")
    parser.add_argument("--times", type=int, default=100, help="each command")
    parser.add_argument("--command", choices=[*COMMANDS, "train"], help="this one alone")
    parser.add_argument("--folder", type=Path, help="where they write")
    parser.add_argument("--model", default="base")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as beside:
        songs(Path(beside, "songs"))
        data = Path(beside, "data")
        begun(["data", "prepare", f"{beside}/songs", str(data)], Path(os.devnull)).join()
        for name in [arguments.command] if arguments.command else [*COMMANDS, "train"]:
            draw = random.Random(f"{arguments.seed}/{name}")
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                harmed = partial(trained, data) if name == "train" else partial(replaced, COMMANDS[name])
                fill = {"songs": f"{beside}/songs", "model": arguments.model}
                figures[name] = harmed(HARMS[arguments.harm], arguments.times, draw, Path(folder), fill)
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    print(json.dumps({arguments.harm: figures}, indent=1))
    if any(row["bad"] for row in figures.values()):
        raise SystemExit(1)


COMMANDS = {
    "generate": "generate {out}.mid --seed {which} --minutes 0.05 --model {model} --threads 1 --png {out}.png",
    "export": "export {model} {out} {int8}",
    "data prepare": "data prepare {songs} {out} --seed {which} --overwrite",
}


def songs(folder: Path) -> None:
    """A few made-up pieces: what they are does not matter here."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(8):
        onset = np.sort(rng.uniform(0, 60, 300))
        piece = Piece(onset, onset + rng.exponential(0.4, 300), rng.integers(30, 90, 300), rng.integers(1, 128, 300))
        piece.write(folder / f"{n}.mid")


def begun(words: list[str], said: Path) -> BaseProcess:
    """The command ``ritornello`` in a process that need not load anything, with all that it says in a file."""
    process = FORK.Process(target=_command, args=(words, said))
    process.start()
    return process


def _command(words: list[str], said: Path) -> None:
    with said.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
        cli.console.file = sys.stderr
        sys.argv = ["ritornello", *words]
        try:
            cli.main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


# ---- harms ----


def killed(words: list[str], folder: Path, took_s: float, nbytes: int, draw: random.Random) -> str:
    """Killed at any moment, or, every other time, as soon as something is in the making."""
    process = begun(words, Path(os.devnull))
    if draw.random() < 0.5:
        process.join(draw.uniform(0.1, 1.1) * took_s)
    else:
        while process.is_alive() and not any(
            name.startswith(".ritornello-") for _, folders, files in os.walk(folder) for name in folders + files
        ):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.01) * took_s)
    process.kill()
    process.join()
    return ""


def full(words: list[str], folder: Path, took_s: float, nbytes: int, draw: random.Random) -> str:
    """Run where only a part of what it writes has room."""
    filler, room = folder.parent / "filler", draw.randrange(int(1.2 * nbytes))
    with filler.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - room)))
    try:
        return _outcome(begun(words, _said(words)), words)
    finally:
        filler.unlink()


def locked(words: list[str], folder: Path, took_s: float, nbytes: int, draw: random.Random) -> str:
    """Shut out of its folder while it works."""
    process = begun(words, _said(words))
    process.join(draw.uniform(0.1, 1.1) * took_s)
    inside = [path for path in folder.rglob("*") if path.is_dir()]
    try:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-R", "+i", folder], check=False, stderr=subprocess.DEVNULL)
        else:
            for path in (*inside, folder):
                path.chmod(0o555)
        return _outcome(process, words)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-R", "-i", folder], check=True)
        else:
            for path in (folder, *inside):
                path.chmod(0o755)


HARMS: dict[str, Harm] = {"killed": killed, "full": full, "locked": locked}


def _said(words: list[str]) -> Path:
    return Path(tempfile.gettempdir(), f"harms-{os.getpid()}.txt")


def _outcome(process: BaseProcess, words: list[str]) -> str:
    """Nothing where it ended well or with one error of one line; what it said where it ended otherwise."""
    process.join()
    said = _said(words).read_text(errors="replace")
    _said(words).unlink()
    if process.exitcode == 0 or (process.exitcode == 2 and "Traceback" not in said and "error:" in said.lower()):
        return ""
    return f"exit code {process.exitcode}: {said[-600:]}"


# ---- commands ----


def replaced(
    command: str, harm: Harm, times: int, draw: random.Random, folder: Path, fill: dict[str, str]
) -> dict[str, Any]:
    """What became of a command that replaces its earlier result, harmed so many times."""
    out = str(folder / "out")
    wanted = [
        command.format(out=out, which=which, int8="--int8" if which else "", **fill).split() for which in range(2)
    ]
    whole, took_s = [], 0.0
    for words in (*wanted, wanted[0]):  # the first time something may be compiled
        began_s = time.perf_counter()
        begun(words, Path(os.devnull)).join()
        took_s = time.perf_counter() - began_s
        whole.append(contents(folder))
    assert whole[0] == whole[2] != whole[1], "the same command writes the same bytes"
    nbytes, names = max(sum(map(len, one.values())) for one in whole), {name for one in whole for name in one}
    seen: Counter[str] = Counter()
    bad: list[Any] = []
    for n in range(times):
        before = contents(folder)
        said = harm(wanted[n % 2], folder, took_s, nbytes, draw)
        there, left = contents(folder), [path for path in folder.iterdir() if path.name.startswith(".ritornello-")]
        # Files that belong together are replaced one by one: each of them is old or new.
        if {*there} != names or any(there[name] not in (whole[0][name], whole[1][name]) for name in names):
            bad.append({"time": n, "there": {name: len(content) for name, content in there.items()}})
        if said or (left and harm is full):
            bad.append({"time": n, "said": said, "left": [path.name for path in left]})
        seen["unchanged" if there == before else "new"] += 1
        seen["in the making"] += bool(left)
        for path in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        told(n + 1, seen)
        if bad:
            break
    return {"times": n + 1, **seen, "bad": bad}


def trained(
    data: Path, harm: Harm, times: int, draw: random.Random, folder: Path, fill: dict[str, str]
) -> dict[str, Any]:
    """What became of trainings that were harmed so many times in all, and resumed."""
    settings = f"--recipe tiny --steps {STEPS} --set checkpoint_every_s=0 --set validate_every_steps=5 --device cpu"
    words = ["train", "--data", str(data), "--out", str(folder / "run"), *settings.split(), "--precision", "fp32"]
    began_s = time.perf_counter()
    begun(words, Path(os.devnull)).join()
    took_s, whole = time.perf_counter() - began_s, everything(folder / "run")
    nbytes = sum(map(len, contents(folder).values()))
    shutil.rmtree(folder / "run")
    seen: Counter[str] = Counter()
    bad: list[Any] = []
    reached = -1
    for n in range(times):
        # Half of the harms come early: a run that is resumed has less to do.
        said = harm(words + ["--resume"] * (reached >= 0), folder, took_s * draw.choice((0.3, 1)), nbytes, draw)
        try:
            found = everything(folder / "run") if (folder / "run" / "last" / "checkpoint.json").exists() else None
            step = found[0]["step"] if found else -1
        except Exception as error:
            found, step, said = None, -2, f"{said} {error!r}"
        if said or step < reached:
            bad.append({"time": n, "said": said, "steps": [reached, step]})
            break
        seen["further" if step > reached else "where it was"] += 1
        reached = step
        if found and step == STEPS:
            seen["finished"] += 1
            if found[1] != whole[1]:
                bad.append({"time": n, "said": "is another model than without harm"})
                break
            shutil.rmtree(folder / "run")
            reached = -1
        told(n + 1, seen)
    return {"times": n + 1, **seen, "bad": bad}


def told(times: int, seen: Counter[str]) -> None:
    """How far it is, every tenth time."""
    if times % 10 == 0:
        print(times, dict(seen), file=sys.stderr, flush=True)


def everything(run: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the last checkpoint says of its progress, and all its tensors."""
    last = load_checkpoint(run / "last")
    return last.run, {f"{n}/{key}": t.numpy().tobytes() for n in last.files for key, t in last.tensors(n).items()}


def contents(folder: Path) -> dict[str, bytes]:
    """All files that are not in the making, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    named = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".ritornello-")}


if __name__ == "__main__":
    main()
