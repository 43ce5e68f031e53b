"""Killed at random moments: what do `generate` and `export` leave behind?

    python benchmarks/kills.py --kills 100

Each command runs again and again into a folder of its own, where an earlier result lies, and is killed (-9) after a
random time, so that some are killed while they write. Afterwards the earlier result, or a whole new one, must be there,
to the last byte, and nothing beside it but hidden files in the making.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RITORNELLO = [sys.executable, "-m", "ritornello"]


def main() -> None:
    """Kills, looks, and prints JSON; exits 1 where something half-written was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--model", default="small")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    piece = ("--minutes", "0.05", "--model", arguments.model, "--png", "{}.png")
    figures = {
        "generate": killed(["generate", "{}.mid", "--seed", "{seed}", *piece], arguments.kills, draw),
        "export": killed(["export", arguments.model, "{}", "{int8}"], arguments.kills, draw),
    }
    print(json.dumps(figures, indent=1))
    if any(row["half_written"] for row in figures.values()):
        raise SystemExit(1)


def killed(command: list[str], kills: int, draw: random.Random) -> dict[str, object]:
    """What became of one command, killed so many times."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [[*RITORNELLO, *filled(command, f"{folder}/out", which)] for which in (0, 1)]
        whole, took_s = [], []
        for one in (*wanted, wanted[0]):  # the first time modules are compiled
            began_s = time.perf_counter()
            subprocess.run(one, check=True, capture_output=True)
            took_s.append(time.perf_counter() - began_s)
            whole.append(contents(Path(folder)))
        assert whole[0] == whole[2] != whole[1], "the same command writes the same bytes"
        seen: Counter[str] = Counter()
        bad = []
        for kill in range(kills):
            before = whole[seen_last(Path(folder), whole)]
            with subprocess.Popen(wanted[kill % 2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                time.sleep(draw.uniform(0.5, 1.1) * took_s[2])
                process.kill()
            there = contents(Path(folder))
            names = {name for one in whole for name in one}
            # Files that belong together are replaced one by one: each of them is old or new.
            if {*there} != names or any(there[name] not in (whole[0][name], whole[1][name]) for name in names):
                bad.append({"kill": kill, "there": {name: len(content) for name, content in there.items()}})
            seen["unchanged" if there == before else "new"] += 1
            left = [path for path in Path(folder).iterdir() if path.name.startswith(".ritornello-")]
            seen["in the making"] += bool(left)
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if bad:
                break
        return {"kills": kill + 1, **seen, "half_written": bad}


def filled(command: list[str], out: str, which: int) -> list[str]:
    """The command with its places filled in; ``which`` of two results it writes."""
    words = [word.format(out, seed=which, int8="--int8" if which else "") for word in command]
    return [word for word in words if word]


def contents(folder: Path) -> dict[str, bytes]:
    """All files that are not in the making, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    named = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".ritornello-")}


def seen_last(folder: Path, whole: list[dict[str, bytes]]) -> int:
    """Which of two results lies there."""
    return 1 if contents(folder) == whole[1] else 0


if __name__ == "__main__":
    main()
