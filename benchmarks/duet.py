"""A duet on a real clock: how soon the model answers, whether it heard what was played, and an hour of it.

python benchmarks/duet.py ASAP_FOLDER [--takeovers 200] [--heard 200] [--minutes 60] [--model base] [--engine onnx]

Takeovers: in each of so many held-out performances a moment is drawn at random, and the performance, pedal included,
is played up to there (its past at once, its last second by the clock). A key calls the model, and another ends its turn
three seconds later. Delays are of the model's first key, beyond the rest that it plays itself. Where a turn begins with
several keys at one moment, their spread is from the first that was sent to the last. What the session has read by then
is compared with `encode` of the same notes.

Heard: the last of it alone, without a model, each performance in its own time, in as many.

Minutes: a player by the clock, with ports as `ritornello duet` has them. Every 20 s they come in with a phrase of a
held-out performance, whoever plays, and fall silent after eight. Every minute is told what the port counted.
"""

from __future__ import annotations

import argparse
import csv
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ritornello import codec, live
from ritornello.duet import Duet
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.performing import Performer, load

CALL, ANSWER = 21, 60  # the keys that begin and end the model's turn
TURN_S = 3.0
LATE_S = 0.010
ROUND_S, PHRASE_S = 20.0, 8.0
BEATS_PER_MINUTE = 120.0

Action = tuple[float, str, tuple[int, ...]]
"""a time in seconds, a method of `Duet`, and its arguments"""


def main() -> None:
    """Reads the arguments, plays, and prints figures in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asap", type=Path)
    parser.add_argument("--takeovers", type=int, default=0)
    parser.add_argument("--heard", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--model", default="base")
    parser.add_argument("--engine", default="onnx")
    arguments = parser.parse_args()
    table = csv.DictReader((arguments.asap / "asap-performances.csv").open(encoding="utf-8"))
    held_out = [arguments.asap / row["midi_filename"] for row in table if row["split"] != "train"]
    if arguments.heard:
        heard(held_out, arguments.heard)
    if not arguments.takeovers and not arguments.minutes:
        return
    performer = load(arguments.model, engine=arguments.engine)
    if arguments.takeovers:
        takeovers(performer, held_out, arguments.takeovers)
    if arguments.minutes:
        minutes(performer, held_out, arguments.minutes * 60)


def takeovers(performer: Performer, paths: list[Path], count: int) -> None:
    """So many, each in a performance of its own."""
    rng = np.random.default_rng(0)
    performer.engine = _Listening(performer.engine)
    delays: list[float] = []
    lateness, silences, spreads = [], [], []
    unequal = 0
    for turn, number in enumerate(rng.choice(len(paths), count, replace=False).tolist()):
        piece = read_midi(paths[number])
        moment_s = float(rng.uniform(2, min(60.0, piece.seconds)))
        sent: list[tuple[float, int, int]] = []
        send = lambda p, v, _, sent=sent: sent.append((time.monotonic(), p, v))  # noqa: E731
        duet = Duet(performer, send, seed=turn, takeover="key")
        actions = [action for action in _actions(piece) if action[0] < moment_s]
        done = [action for action in actions if action[0] < moment_s - 1]
        last = actions[len(done) :]
        for at_s, name, values in done:
            getattr(duet, name)(at_s, *values)
        duet.tick(moment_s - 1)  # reads all of it, however long that takes
        ahead_s = moment_s - 1 - time.monotonic()  # the performance's clock, of the real one
        for at_s, name, values in last:
            _until(duet, at_s, ahead_s)
            done.append((time.monotonic() + ahead_s, name, values))
            getattr(duet, name)(*done[-1][:1], *values)
        _until(duet, moment_s, ahead_s)
        called_s = time.monotonic() + ahead_s
        duet.strike(called_s, CALL, 64)
        unequal += duet._heard._session.tokens[1:] != _expected(done, called_s)
        read = len(duet._heard._session.tokens)
        _until(duet, time.monotonic() + ahead_s + TURN_S, ahead_s)
        now_s = time.monotonic()
        if duet.delays.takeovers and (keys := _first_keys(duet._prefetched._session.tokens[read:])) > 1:
            struck = [at_s for at_s, _, velocity in sent if velocity][:keys]
            spreads.append(struck[-1] - struck[0])
        duet.strike(now_s + ahead_s, ANSWER, 64)
        silences.append(max((at_s - now_s for at_s, _, v in sent if at_s >= now_s and not v), default=0.0))
        delays += duet.delays.takeovers
        lateness.append(duet.delays.latest)
        duet.close(time.monotonic() + ahead_s)
    rows = {"first key late": delays, "other keys late at most": lateness, "until silent": silences}
    for name, values in (rows | {"spread of a first chord": spreads}).items():
        middle, p99, most = (1000 * value for value in (*np.quantile(values, [0.5, 0.99]), max(values)))
        print(f"{name}: {middle:.1f} ms in the middle, {p99:.1f} ms at p99, {most:.1f} ms at most ({len(values)})")
    late = sum(value > LATE_S for value in lateness)
    print(f"turns with a key more than {LATE_S * 1000:.0f} ms late: {late} of {len(lateness)}")
    print(f"read something else than what was played: {unequal} of {count}")


def heard(paths: list[Path], count: int) -> None:
    """What is read up to a takeover at a random moment of so many performances, against `encode`."""
    rng = np.random.default_rng(0)
    unequal = tokens = down = 0
    for number in rng.choice(len(paths), count, replace=False).tolist():
        piece = read_midi(paths[number])
        moment_s = float(rng.uniform(2, piece.seconds))
        duet = Duet(Performer(_Listening(_Silent())), lambda *_: None, seed=0, takeover="key")
        done = [action for action in _actions(piece) if action[0] < moment_s]
        for at_s, name, values in done:
            duet.tick(at_s)
            getattr(duet, name)(at_s, *values)
        down += any(map(duet.sounds, range(128)))
        duet.tick(moment_s)
        duet.strike(moment_s, CALL, 64)
        read = duet._heard._session.tokens[1:]
        tokens += len(read)
        unequal += read != _expected(done, moment_s)
    print(
        f"read something else than what was played: {unequal} of {count} ({tokens:,} tokens; keys were down in {down})"
    )


def minutes(performer: Performer, paths: list[Path], seconds: float) -> None:
    """A player who comes in every `ROUND_S`; what the port counts is told every minute."""
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    port = _Counting()
    duet = Duet(performer, live.sender(port), seed=0, takeover="silence")
    began_s = shown_s = time.monotonic()
    player = threading.Thread(target=_player, args=(paths, inbox.put, began_s, began_s + seconds), daemon=True)

    def monitor() -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if now_s - shown_s < 60:
            return
        shown_s = now_s
        clocks = (now_s - began_s) * BEATS_PER_MINUTE / 60 * live.CLOCKS_PER_QUARTER
        late = duet.delays.takeovers
        print(
            f"minute {(now_s - began_s) / 60:.0f}: {_resident_mb():.1f} MB, {len(late)} turns, first key "
            f"{1000 * max(late, default=0):.1f} ms late at most, others {1000 * duet.delays.latest:.1f}; port: "
            f"{port.struck} keys struck, {port.again} of them while down, {len(port.down)} down; clock "
            f"{port.clocks - clocks:+.1f} ticks; {len(duet.notes)} notes kept",
            flush=True,
        )
        duet.delays.latest = 0.0

    player.start()
    live.run(
        duet,
        inbox,
        port,
        stop=lambda: time.monotonic() >= began_s + seconds,
        beats_per_minute=BEATS_PER_MINUTE,
        monitor=monitor,
    )
    took_s = time.monotonic() - began_s
    late = np.array(duet.delays.takeovers) * 1000
    middle, p99 = np.quantile(late, [0.5, 0.99])
    print(f"after {took_s / 60:.1f} minutes: {port.struck} keys struck, {port.let} let go, {len(port.down)} still down")
    print(f"{len(late)} turns, first key late: {middle:.1f} ms in the middle, {p99:.1f} p99, {late.max():.1f} at most")


class _Counting:
    """A port that counts what is sent to it."""

    def __init__(self) -> None:
        self.down: set[int] = set()
        self.struck = self.let = self.again = self.clocks = 0

    def send(self, *message: int) -> None:
        if message[0] == live.CLOCK:
            self.clocks += 1
        elif message[0] == live.NOTE_ON:
            self.struck += 1
            self.again += message[1] in self.down
            self.down.add(message[1])
        elif message[0] == live.NOTE_OFF:
            self.let += 1
            self.down.discard(message[1])


class _Silent:
    """An engine that reads at no cost."""

    trained_on, labels, motifs = {}, (), None

    def begin(self) -> _Silent:
        return self

    def fork(self) -> _Silent:
        return self

    def read(self, tokens: np.ndarray) -> np.ndarray:
        return np.zeros(codec.N_EVENTS, np.float32)


class _Listening:
    """An engine whose sessions keep what they have read."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def begin(self) -> _Heard:
        return _Heard(self._engine.begin(), [])


class _Heard:
    def __init__(self, session: Any, tokens: list[int]) -> None:
        self._session, self.tokens = session, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def read(self, tokens: np.ndarray) -> np.ndarray:
        self.tokens += tokens.tolist()
        return self._session.read(tokens)

    def fork(self) -> _Heard:
        return _Heard(self._session.fork(), list(self.tokens))


def _first_keys(tokens: list[int]) -> int:
    """How many keys are struck at the first moment of which there are any."""
    kinds = "".join("k" if t < codec.NOTE_OFF else " " if codec.SHIFT <= t < codec.VELOCITY else "." for t in tokens)
    return next((moment.count("k") for moment in kinds.split() if "k" in moment), 0)


def _actions(piece: Piece) -> list[Action]:
    """What a person does to play a piece, from its first key on: keys come up before they are struck again."""
    rows: list[tuple[float, int, str, tuple[int, ...]]] = []
    again: dict[int, float] = {}
    columns = (values.tolist()[::-1] for values in (piece.onset, piece.offset, piece.pitch, piece.velocity))
    for onset, offset, pitch, velocity in zip(*columns):
        if pitch == CALL or again.get(pitch) == onset:
            continue
        end_s = min(offset, again.get(pitch, np.inf))
        rows += [(onset, 3, "strike", (pitch, velocity)), (end_s, 2 if end_s > onset else 4, "release", (pitch,))]
        again[pitch] = onset
    for down_s, up_s in piece.pedals.tolist():
        rows += [(down_s, 1, "pedal", (1,)), (up_s, 0, "pedal", (0,))]
    rows.sort()
    first_s = next((row[0] for row in rows if row[2] == "strike"), 0.0)
    return [(at_s - first_s, name, values) for at_s, _, name, values in rows if at_s >= first_s]


def _expected(done: list[Action], called_s: float) -> list[int]:
    """`encode` of what was done, up to a moment: keys and pedal that are down then are down for ever."""
    first_s, ever_s = done[0][0], called_s + 100
    keys: dict[int, tuple[float, int]] = {}
    notes, pedals, down_s = [], [], None
    for at_s, name, values in done:
        if name == "pedal":
            if down_s is not None and not values[0]:
                pedals.append((down_s - first_s, at_s - first_s))
            down_s = (at_s if down_s is None else down_s) if values[0] else None
            continue
        if values[0] in keys:
            onset_s, velocity = keys.pop(values[0])
            notes.append((onset_s - first_s, at_s - first_s, values[0], velocity))
        if name == "strike":
            keys[values[0]] = (at_s, values[1])
    notes += [(onset_s - first_s, ever_s - first_s, pitch, velocity) for pitch, (onset_s, velocity) in keys.items()]
    pedals += [] if down_s is None else [(down_s - first_s, ever_s - first_s)]
    tokens = codec.encode(Piece.from_notes(notes, pedals=np.reshape(pedals, (-1, 2))))[:-1].astype(np.int64)
    tokens = tokens[codec.steps_of(tokens) <= np.floor((called_s - first_s) * 100 + 0.5)]
    is_event = (tokens < codec.SHIFT) | (tokens >= codec.VELOCITY)
    return tokens[: np.flatnonzero(is_event)[-1] + 1].tolist()


def _player(paths: list[Path], put: Callable[[live.Message], None], began_s: float, until_s: float) -> None:
    """Puts a phrase into the inbox every `ROUND_S`, by the clock."""
    rng, starts_s = np.random.default_rng(1), began_s + 2.0
    while starts_s < until_s:
        actions = _actions(read_midi(paths[int(rng.integers(len(paths)))]))
        from_s = float(rng.uniform(0, max(0.0, actions[-1][0] - 2 * PHRASE_S)))
        actions = [action for action in actions if from_s <= action[0] < from_s + PHRASE_S]
        down: set[int] = set()
        while actions and actions[0][1] != "strike":
            actions.pop(0)
        for at_s, name, values in actions:
            _wait(starts_s + at_s - actions[0][0])
            if name == "pedal":
                message = [live.CONTROL, live.PEDAL, 127 * values[0]]
            else:
                message = [live.NOTE_ON if name == "strike" else live.NOTE_OFF, values[0], (values[1:] or (0,))[0]]
                (down.add if name == "strike" else down.discard)(values[0])
            put((time.monotonic(), message))
        for pitch in sorted(down):
            put((time.monotonic(), [live.NOTE_OFF, pitch, 0]))
        put((time.monotonic(), [live.CONTROL, live.PEDAL, 0]))
        starts_s += ROUND_S
        _wait(starts_s)


def _wait(until_s: float) -> None:
    time.sleep(max(0.0, until_s - time.monotonic()))


def _until(duet: Duet, time_s: float, ahead_s: float) -> None:
    """Lets the duet do what is due up to a moment of a clock that is so far ahead of the real one."""
    while (now_s := time.monotonic() + ahead_s) < time_s:
        wait_s = duet.tick(now_s)
        if wait_s > 0:
            time.sleep(min(wait_s, max(0.0, time_s - time.monotonic() - ahead_s)))


def _resident_mb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


if __name__ == "__main__":
    main()
