"""How soon the model answers, how late its keys come, and how soon it falls silent: a duet on a real clock.

python benchmarks/duet.py ASAP_FOLDER [--takeovers 200] [--model small] [--engine onnx]

Each time a held-out performance is played up to a moment drawn at random (its past at once, its last second by the
clock); a key calls the model, and another ends its turn three seconds later. Delays are of the model's first key,
beyond the rest that it plays itself.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from ritornello.duet import Duet
from ritornello.midi import read_midi
from ritornello.performing import load

CALL, ANSWER = 21, 60  # the keys that begin and end the model's turn
TURN_S = 3.0
LATE_S = 0.010


def main() -> None:
    """Reads the arguments, plays, and prints figures in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asap", type=Path)
    parser.add_argument("--takeovers", type=int, default=200)
    parser.add_argument("--model", default="small")
    parser.add_argument("--engine", default="onnx")
    arguments = parser.parse_args()
    table = csv.DictReader((arguments.asap / "asap-performances.csv").open(encoding="utf-8"))
    held_out = [row["midi_filename"] for row in table if row["split"] != "train"]
    rng = np.random.default_rng(0)
    performer = load(arguments.model, engine=arguments.engine)
    delays, lateness, silences = [], [], []
    for turn in range(arguments.takeovers):
        piece = read_midi(arguments.asap / held_out[int(rng.integers(len(held_out)))]).without_pedal()
        moment_s = float(rng.uniform(2, min(60.0, piece.seconds)))
        sent: list[tuple[float, int, int]] = []
        duet = Duet(performer, lambda p, v, sent=sent: sent.append((time.monotonic(), p, v)), seed=turn, takeover="key")
        events = sorted(
            [(on, p, v) for on, p, v in zip(piece.onset, piece.pitch, piece.velocity) if on < moment_s and p != CALL]
            + [(off, p, 0) for on, off, p in zip(piece.onset, piece.offset, piece.pitch) if off < moment_s and on < off]
        )
        past = [event for event in events if event[0] < moment_s - 1]
        began_s = time.monotonic() - (moment_s - 1) + 2.0  # two seconds for the past to be read
        for at_s, pitch, velocity in past:
            _do(duet, began_s + at_s, int(pitch), int(velocity))
        _until(duet, began_s + moment_s - 1)
        for at_s, pitch, velocity in events[len(past) :]:
            _until(duet, began_s + at_s)
            _do(duet, time.monotonic(), int(pitch), int(velocity))
        _until(duet, began_s + moment_s)
        duet.strike(time.monotonic(), CALL, 64)
        _until(duet, time.monotonic() + TURN_S)
        now_s = time.monotonic()
        duet.strike(now_s, ANSWER, 64)
        silences.append(max((at_s - now_s for at_s, _, v in sent if at_s >= now_s and not v), default=0.0))
        delays += duet.delays.takeovers
        lateness.append(duet.delays.latest)
        duet.close(time.monotonic())
    for name, values in (("first key late", delays), ("other keys late at most", lateness), ("until silent", silences)):
        middle, p99, most = (1000 * value for value in (*np.quantile(values, [0.5, 0.99]), max(values)))
        print(f"{name}: {middle:.1f} ms in the middle, {p99:.1f} ms at p99, {most:.1f} ms at most ({len(values)})")
    late = sum(value > LATE_S for value in lateness)
    print(f"turns with a key more than {LATE_S * 1000:.0f} ms late: {late} of {len(lateness)}")


def _do(duet: Duet, time_s: float, pitch: int, velocity: int) -> None:
    if velocity:
        duet.strike(time_s, pitch, velocity)
    else:
        duet.release(time_s, pitch)


def _until(duet: Duet, time_s: float) -> None:
    """Lets the duet do what is due up to a moment."""
    while (now_s := time.monotonic()) < time_s:
        wait_s = duet.tick(now_s)
        if wait_s > 0:
            time.sleep(min(wait_s, max(0.0, time_s - time.monotonic())))


if __name__ == "__main__":
    main()
