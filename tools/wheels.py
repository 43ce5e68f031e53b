"""Asks the package index whether every dependency and extra can be installed from wheels, everywhere.

    pip install uv
    python tools/wheels.py

prints a table of Pythons and platforms; exit code 1, and what uv says, where something has no wheel. The versions are
those that an install there would choose (``uv pip compile``), with and without ``constraints.txt``; nothing is
downloaded but what the index says of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "macOS 14 ARM": "aarch64-apple-darwin",
    "Windows x86-64": "x86_64-pc-windows-msvc",
}
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def missing(python: str, platform: str, extras: list[str], *, uv: str) -> str:
    """What the resolver says against an install there; empty if nothing."""
    options = ["--python-version", python, "--python-platform", platform, "--only-binary", ":all:", "--quiet"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    for constraints in ([], ["--constraint", str(PROJECT.with_name("constraints.txt"))]):
        command = [uv, "pip", "compile", str(PROJECT), *extras, *constraints, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            return " ".join([*constraints, *done.stderr.split()]) or f"uv ended with {done.returncode}"
    return ""


def main() -> None:
    """All extras at once for every Python and platform."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", action="append", help="this extra alone; may be given more than once")
    parser.add_argument("--uv", default="uv", help="the program")
    options = parser.parse_args()
    extras = [f"--extra={name}" for name in options.extra or ()] or ["--all-extras"]
    reasons = {}
    print("| Python |", " | ".join(PLATFORMS), "|")
    print("|---" * (1 + len(PLATFORMS)) + "|")
    for python in PYTHONS:
        said = {name: missing(python, platform, extras, uv=options.uv) for name, platform in PLATFORMS.items()}
        row = ("missing" if reason else "wheels" for reason in said.values())
        print(f"| {python} |", " | ".join(row), "|", flush=True)
        reasons |= {f"Python {python}, {name}": reason for name, reason in said.items() if reason}
    for where, reason in reasons.items():
        print(f"{where}: {reason}", file=sys.stderr)
    sys.exit(1 if reasons else 0)


if __name__ == "__main__":
    main()
