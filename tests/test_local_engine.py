"""The local engine of the studio: its JavaScript agrees with Python, by vectors that are written here.

node's own test runner checks them (``tests/page``); onnxruntime's WebAssembly runs in node as it does in a browser.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import made_up_piece
from scripted import final_s
from test_duet import PHRASE, scenario
from test_duet import performed as duet_of
from test_midi_mending import SMALL
from tiny import DATA, random_model, save_model

from ritornello import codec, read_midi
from ritornello.checkpoint import BUNDLED
from ritornello.codec import steering
from ritornello.engines import exported
from ritornello.engines.sizes import quantised
from ritornello.errors import RitornelloError, counted
from ritornello.horizons import HorizonSchedule
from ritornello.midi import parse_midi, write_midi
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.studio.static import PAGE

PERFORMANCES = 20
TOLERANCE = 1e-3
"""of logits, which lie tens apart: sums are taken in another order, and keys stay for thousands of tokens"""


def node(test: str, vectors: Path) -> None:
    """Runs ``tests/page/<test>.test.mjs`` on the files in ``vectors``."""
    if shutil.which("node") is None:
        pytest.skip("node is not here: it runs the page's JavaScript")
    script = Path(__file__).parent / "page" / f"{test}.test.mjs"
    where = {"VECTORS": str(vectors), "ENGINE": str(PAGE / "engine")}
    command = ["node", "--no-warnings", "--test", "--test-reporter=spec", str(script)]
    done = subprocess.run(command, env=os.environ | where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def performances(asap: Path) -> list[Path]:
    """From all over the collection, always the same."""
    every = sorted(asap.rglob("*.mid"))
    played = [path for path in every if path.name != "midi_score.mid"]
    return played[:: len(played) // PERFORMANCES][:PERFORMANCES]


def rows(piece: Piece) -> list[list[float]]:
    columns = (piece.onset, piece.offset, piece.pitch, piece.velocity)
    return [list(row) for row in zip(*(column.tolist() for column in columns))]


def described(piece: Piece) -> dict[str, Any]:
    pedals, mended = piece.pedals.tolist(), dict(piece.mended)
    return {"notes": rows(piece), "pedals": pedals, "title": piece.title, "mended": mended}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def crowded(seed: int) -> Piece:
    """Three keys that are struck again while they are held, some twice within a step, and some for no time."""
    piece = made_up_piece(np.random.default_rng(seed), notes=400, seconds=4)
    offset = np.where(np.arange(len(piece)) % 7, piece.offset, piece.onset)
    return replace(piece, offset=offset, pitch=piece.pitch % 3 + 60, title="Étude — “x”")


# ---- MIDI ----


def test_midi_files_are_read_and_written_as_in_python(tmp_path):
    overlapping = [crowded(seed) for seed in range(3)]
    for number, piece in enumerate(overlapping):
        piece.write(tmp_path / f"crowded-{number}.mid")
    pieces = [{"pieces": [described(piece)], "written": f"crowded-{n}.mid"} for n, piece in enumerate(overlapping)]
    write_midi(overlapping[:2], tmp_path / "duet.mid")
    pieces.append({"pieces": [described(piece) for piece in overlapping[:2]], "written": "duet.mid"})
    write_json(tmp_path / "pieces.json", pieces)

    good = SMALL["junk between tracks"][0]
    contents = {name: data for name, (data, _, _) in SMALL.items()}
    contents |= {f"crowded {n}": (tmp_path / f"crowded-{n}.mid").read_bytes() for n in range(3)}
    contents |= {"compressed": gzip.compress(good), "compressed and cut short": gzip.compress(good)[:-9]}
    contents |= {"nothing": b"", "text": b"no MIDI at all", "half a file": good[:40], "header alone": good[:14]}
    contents |= damaged(good)
    files = []
    for number, (name, data) in enumerate(contents.items()):
        (tmp_path / f"{number}.mid").write_bytes(data)
        entry: dict[str, Any] = {"name": name, "file": f"{number}.mid"}
        try:
            piece = parse_midi(data, "x")
            piece.write(tmp_path / f"{number}.written")
            entry |= {"piece": described(piece), "written": f"{number}.written"}
        except RitornelloError as refusal:
            entry["refused"] = str(refusal).removeprefix("x: ")
        files.append(entry)
    assert sum("refused" in entry for entry in files) > 10
    write_json(tmp_path / "files.json", files)
    node("midi", tmp_path)


def damaged(good: bytes) -> dict[str, bytes]:
    """The file with each of its bytes changed, one at a time."""
    rng = np.random.default_rng(0)
    changed = {}
    for place in range(len(good)):
        data = bytearray(good)
        data[place] = int(rng.integers(256))
        changed[f"byte {place} is {data[place]}"] = bytes(data)
    return changed


def test_what_messages_count_stands_in_the_singular_where_it_is_one(tmp_path):
    expected = {
        "pedals never lifted": "pedal never lifted",
        "presses of the sostenuto pedal, left out": "press of the sostenuto pedal, left out",
        "notes without a release": "note without a release",
        "tempo events without a tempo, left out": "tempo event without a tempo, left out",
        "data bytes above 127, clipped or left out": "data byte above 127, clipped or left out",
        "whole validation pieces": "whole validation piece",
        "turns of the model's": "turn of the model's",
        "End of Track cut off": "End of Track cut off",
        "header of a wrong length": "header of a wrong length",
        "SMPTE rate that does not exist, taken as ticks": "SMPTE rate that does not exist, taken as ticks",
    }
    for plural, singular in expected.items():
        assert [counted(n, plural) for n in (0, 1, 2)] == [f"0 {plural}", f"1 {singular}", f"2 {plural}"]
    assert counted(1_000, "notes") == "1,000 notes"
    write_json(tmp_path / "counted.json", expected)
    node("counted", tmp_path)


# ---- the duet ----


def test_the_page_s_duet_hears_and_plays_as_python_s(tmp_path):
    """Every scenario: what was read, whose turn it was after each message, each key and when, what is recorded."""
    found = []
    for seed in range(36):
        messages, takeover, handback, lead_s = scenario(seed)
        turns: list[Any] = []
        stage = duet_of(messages, takeover, handback, lead_s, turns)
        keys = [[*key, due_s] for key, due_s in zip(stage.sent, stage.due)]
        options = {"takeover": takeover, "handback": handback, "lead": lead_s}
        found.append({"messages": messages, "options": options, "turns": turns, "keys": keys, "heard": stage.heard()})
        found[-1] |= {"notes": stage.duet.notes, "pedals": stage.duet.pedals}
    assert sum(len(one["keys"]) for one in found) > 1000
    assert sum(any(playing for playing, _ in one["turns"]) for one in found) > 24
    write_json(tmp_path / "duets.json", {"phrase": PHRASE, "duets": found})
    node("duet", tmp_path)


# ---- tokens, grammar, hints, draws ----


def test_tokens_legality_hints_pedals_and_draws_are_those_of_python(tmp_path, asap):
    crowded(0).write(tmp_path / "crowded.mid")
    paths = [*performances(asap), tmp_path / "crowded.mid"]
    found = [performed(number, path, tmp_path) for number, path in enumerate(paths)]
    assert sum(one["pedalled"][0]["pedals"] for one in found) > 1000
    write_json(tmp_path / "performances.json", found)
    seeds = {seed: np.random.default_rng(seed).random(50).tolist() for seed in (0, 1, 7, 2**31, 2**53 - 1)}
    write_json(tmp_path / "random.json", [{"seed": seed, "numbers": numbers} for seed, numbers in seeds.items()])
    write_json(tmp_path / "sampling.json", draws())
    node("codec", tmp_path)


def performed(number: int, path: Path, folder: Path) -> dict[str, Any]:
    shutil.copy(path, folder / f"{number}.mid")
    piece = read_midi(path)
    tokens = codec.encode(piece)[:-1]
    (folder / f"{number}.tokens").write_bytes(tokens.astype("<u2").tobytes())
    steps = int(codec.steps_of(tokens)[-1])
    masks = codec.legal_events(codec.contexts(tokens)).astype(np.uint8)
    hints = []
    for notes in (64, 2048):  # with the smaller nearly all is forgotten
        for called in ("never", "always", "known"):  # with every hundredth strike, back to the fiftieth before it
            calls = {n: (n - 50, 0) for n in range(100, len(tokens), 100)} if called != "never" else {}
            told = codec.MotifMemory(notes, may_call=called == "known").read(tokens, calls)
            sha256 = hashlib.sha256(told.astype("<i2").tobytes()).hexdigest()
            hints.append({"notes": notes, "called": called, "sha256": sha256})
    decoded = codec.decode(tokens)
    found = {"name": path.stem, "steps": steps, "notes": rows(decoded), "hints": hints}
    found["pedalled"] = [pedalled(decoded, 0), *(pedalled(piece, piece.seconds * share) for share in (0, 0.3, 0.7, 1))]
    return found | {"masks": hashlib.sha256(masks.tobytes()).hexdigest()}


def pedalled(piece: Piece, since_s: float) -> dict[str, Any]:
    new = piece.with_pedal(since_s)
    numbers = np.concatenate([np.ravel(rows(new)), new.pedals.ravel()]).astype("<f8")
    return {"since": since_s, "pedals": len(new.pedals), "sha256": hashlib.sha256(numbers.tobytes()).hexdigest()}


class Uniform:
    """A generator of the given numbers."""

    def __init__(self, numbers: Iterable[float]) -> None:
        self.random = iter(numbers).__next__


def draws() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=(4, codec.N_EVENTS)) * 3).astype(np.float32)
    legal = rng.random(logits.shape) < 0.6
    cuts = ((1.0, 0.0), (0.97, 0.0), (0.9, 0.0), (1.0, 0.1), (0.3, 0.02))
    cases = []
    for temperature, (top_p, min_p) in itertools.product((0.0, 0.7, 1.0, 1.6), cuts):
        sampling = Sampling(temperature, top_p, min_p)
        for row in range(len(logits)):
            numbers = rng.random(25).tolist()
            events = [sampling.draw(logits[row], legal[row], Uniform([number])) for number in numbers]  # type: ignore[arg-type]
            named = {"temperature": temperature, "topP": top_p, "minP": min_p}
            cases.append({"row": row, "sampling": named, "uniforms": numbers, "events": events})
    return {"cases": cases, "logits": logits.tolist(), "legal": legal.astype(int).tolist()}


# ---- models ----


def in_bytes(weights: Mapping[str, Any], matrices: Iterable[str]) -> dict[str, torch.Tensor]:
    """Weights whose matrices int8 holds exactly: the browser's and Python's are the same numbers then."""
    found = {name: torch.tensor(np.asarray(value)) for name, value in weights.items()}
    for name in matrices:
        matrix = found[f"{name}.weight"]
        values, scale = quantised(matrix.numpy())
        whole = (values.astype(np.float32) - 128) * scale[..., None]
        found[f"{name}.weight"] = torch.tensor(whole.reshape(matrix.shape))
    return found


@pytest.fixture
def tiny(tmp_path):
    """Two random models with all that a DSMR may have, one under each rule; the second can be told what to play."""
    folders = []
    for name, rule in (("segment", "segment"), ("sliding", "sliding")):
        schedule = HorizonSchedule((96, 16, 96), rule=rule)
        more = (
            {"motif_notes": 512, "recalls": True}
            if rule == "segment"
            else {"labels": steering.labels(("Bach", "Chopin"), ())}
        )
        model = random_model(5, schedule=schedule, qk_bias=True, **more)
        model.load_state_dict(in_bytes(model.state_dict(), model.config.matrices))
        folders.append(save_model(model, tmp_path / name, trained_on=DATA | {"shortest_s": 1.25}))
    return folders


def music(seed: int, tokens: int) -> list[int]:
    """So many tokens of legal events at random."""
    rng, grammar, found = np.random.default_rng(seed), codec.Grammar(), [codec.START]
    while len(found) < tokens:
        legal = grammar.legal()
        legal[codec.END] = False
        found.append(int(rng.choice(np.flatnonzero(legal))))
        grammar.advance(found[-1])
    return found


def exported_for(model: Path, folder: Path, tokens: list[int], steps: list[int], prompt: Piece) -> dict[str, Any]:
    """Writes the model for a browser, and what Python's engine makes of it."""
    files, about = exported.web_files(str(model))
    (folder / model.name).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / model.name / name).write_bytes(content)
    engine = exported.load(str(model), "fp32")
    session, wanted, place = engine.begin(), [], 0
    for to in [*steps, len(tokens)]:
        wanted.append(session.read(np.array(tokens[place:to])))
        place = to
    (folder / f"{model.name}.logits").write_bytes(np.array(wanted).astype("<f4").tobytes())
    end_s = prompt.seconds
    score = [{"from": a, "to": b, "nats": nats(engine, prompt, a, b)} for a, b in ((0, end_s / 2), (end_s / 2, end_s))]
    score.append({"from": end_s + 1, "to": end_s + 2, "nats": None})
    found = {"name": model.name, "tokens": tokens, "steps": steps, "tolerance": TOLERANCE, "score": score}
    return found | {"prompt": rows(prompt), "about": about, "shortest": engine.trained_on["shortest_s"]}


def nats(engine: exported.OnnxEngine, piece: Piece, from_s: float, to_s: float) -> float:
    tokens = codec.encode(piece)[:-1].astype(np.int64)
    steps = codec.steps_of(tokens)
    logits = engine.begin().score(np.r_[codec.START, tokens[:-1]]).astype(np.float64)
    logits[~codec.legal_events(codec.contexts(tokens))] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(tokens)), tokens]
    return float(each[(steps >= round(from_s * 100)) & (steps < round(to_s * 100))].mean())


def played(model: Path, prompt: Piece) -> dict[str, Any]:
    """What Python plays after the prompt, with other settings after some seconds."""
    seed, first_s, until_s = 11, prompt.seconds + 20, prompt.seconds + 80
    engine, calls = exported.load(str(model), "fp32"), 0
    told, changed = ({"composer=Bach": 0.75, "composer=Chopin": 0.25}, {"density=7": 1}) if engine.labels else ({}, {})
    take, rng, found = Performer(engine, told=told).begin(), np.random.default_rng(seed), []
    take.hear(codec.encode(prompt)[:-1])
    struck_s, keys, event = take.seconds, {}, None
    while (now_s := final_s(take, keys, event)) < until_s and not take.ended:
        early = now_s < first_s
        take.tell(told if early else changed)
        motifs = take._session.motifs
        before = motifs and motifs.called
        event = take.play(Sampling(1.0, 0.9, returns=40) if early else Sampling(0.6, 1.0, 0.05, 40), rng)
        calls += bool(motifs and motifs.called > before)
        found += [list(note) for note in event.finished if note.onset >= struck_s]
    assert calls or motifs is None, "or the vector would not show that both engines call back the same"
    return {
        "seed": seed,
        "sampling": {"temperature": 1, "topP": 0.9, "returns": 40},
        "changed": {"temperature": 0.6, "topP": 1, "minP": 0.05, "returns": 40},
        "told": told,
        "toldLater": changed,
        "prompt": rows(prompt),
        "first": first_s,
        "until": until_s,
        "expected": sorted(found, key=lambda note: (note[0], note[2])),
        "ended": take.ended,
        "sounding": sorted(list(n) for n in take.finish() if n.onset >= struck_s and n.onset < n.offset),
    }


def test_a_model_plays_in_the_browser_s_engine_as_in_python_s(tmp_path, tiny):
    prompt = codec.decode(music(3, 200))
    far = [(20_000, tiny[0]), (2_000, tiny[1])]
    models = [
        exported_for(model, tmp_path, music(1, end), [10, 500, *range(end - 40, end)], prompt) for end, model in far
    ]
    for vector, model in zip(models, tiny):
        vector["music"] = played(model, prompt)
    write_json(tmp_path / "models.json", models)
    node("voices", tmp_path)


def test_the_bundled_model_s_likelihoods_are_those_of_python_s_engine(tmp_path, asap):
    piece = read_midi(performances(asap)[3])
    tokens = [codec.START, *codec.encode(piece)[:2400].tolist()]
    prompt = codec.decode(tokens[1:400])
    vector = exported_for(BUNDLED / "base", tmp_path, tokens, [10, 2380, *range(2381, 2400)], prompt)
    write_json(tmp_path / "models.json", [vector])
    node("voices", tmp_path)
