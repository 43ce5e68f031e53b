"""The command line: every verb works from end to end, its figures are right, and bad input gets one line and code 2."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import typer
from definition import save_model, tiny_model
from PIL import Image
from tiny import write_corpus

import ritornello
from ritornello import cli, codec
from ritornello.checkpoint import load_checkpoint
from ritornello.cli.common import clock
from ritornello.midi import read_midi
from ritornello.models import from_checkpoint
from ritornello.notes import Piece
from ritornello.performing import Performer

NOBODY = 65534


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.out)


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch, capsys) -> Run:
    """The command ``ritornello``, in this process."""

    def run_command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ritornello", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return Outcome(stopped.value.code or 0, *capsys.readouterr())

    return run_command


def song(notes: int) -> Piece:
    """Two notes a second, a quarter of a second each, all equally loud: 4 x notes + 1 tokens (see `tokens_of`)."""
    return Piece.from_notes([(i / 2, i / 2 + 0.25, 60 + i % 7, 64) for i in range(notes)])


def tokens_of(notes: int) -> int:
    """A velocity; for each note strike, shift and release; a shift between two notes; END."""
    return 1 + 3 * notes + (notes - 1) + 1


TRAIN, VALIDATION, TEST = (30, 41, 25), (33, 20), (12,)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for split, sizes in {"train": TRAIN, "validation": VALIDATION, "test": TEST}.items():
        (folder / split).mkdir()
        for size in sizes:
            song(size).write(folder / split / f"{size}.mid")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """What `songs` becomes, without a pool of processes."""
    splits = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    pieces = {split: [codec.encode(song(size)) for size in sizes] for split, sizes in splits.items()}
    return write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", pieces).path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tiny_model(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copied_model(tmp_path) -> Path:
    return save_model(tiny_model(), tmp_path / "model")


def assert_refused(outcome: Outcome, *words: object) -> None:
    """One line that names what it is about, and nothing else; code 2."""
    assert outcome.err.startswith("error: "), outcome
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.code == 2
    assert outcome.out == ""
    for word in words:
        assert str(word) in outcome.err, f"{word} is not in: {outcome.err}"


def assert_empty(folder: Path) -> None:
    assert sorted(folder.rglob("*")) == []


def be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(cli.console, "is_interactive", True)


# ---- help ----


def verbs() -> dict[str, Any]:
    found = {}

    def visit(command: Any, path: str) -> None:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                visit(below, f"{path} {name}")
        else:
            found[path] = command

    visit(typer.main.get_command(cli.app), "ritornello")
    return found


def test_the_verbs_that_scripts_rely_on_are_there():
    wanted = {"generate", "continue", "data maestro", "data prepare", "train", "evaluate", "schedules", "metrics"}
    wanted |= {"study run", "study table", "bench train"}
    assert {f"ritornello {verb}" for verb in wanted} <= verbs().keys()


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_helps_with_an_example(run, verb):
    outcome = run(*verb.split()[1:], "--help")
    assert outcome.code == 0
    assert f"Example: {verb} " in " ".join(outcome.out.split())


@pytest.mark.parametrize("verb", verbs())
def test_every_example_is_one_that_the_verb_understands(verb):
    found = re.search(r"Example: (.*)", verbs()[verb].epilog)
    assert found, verb
    arguments = shlex.split(found[1])[len(verb.split()) :]
    verbs()[verb].make_context(verb, arguments)


def test_alone_it_shows_its_verbs(run):
    outcome = run()
    assert outcome.code == 0
    assert "generate" in outcome.out


# ---- from end to end ----


def test_songs_become_a_corpus_a_model_its_likelihood_and_a_new_piece(run, songs, tmp_path):
    prepared = run("data", "prepare", songs, tmp_path / "corpus", "--licence", "CC0", "--json")
    assert prepared.code == 0, prepared
    for split, sizes in {"train": TRAIN, "validation": VALIDATION, "test": TEST}.items():
        assert prepared.figures["splits"][split] == {
            "pieces": len(sizes),
            "tokens": sum(map(tokens_of, sizes)),
            "notes": sum(sizes),
            "hours": round(sum((size - 1) / 2 + 0.25 for size in sizes) / 3600, 2),
        }
    assert prepared.figures["skipped"] == prepared.figures["duplicates"] == []

    options = ("--recipe", "tiny", "--steps", "3", "--device", "cpu", "--json")
    trained = run("train", "--data", tmp_path / "corpus", "--out", tmp_path / "run", *options)
    assert trained.code == 0, trained
    best = load_checkpoint(tmp_path / "run")
    assert (best.progress["step"], best.data) == (3, {"name": "corpus", "licence": "CC0"})
    assert trained.figures == {
        "run": str(tmp_path / "run"),
        "kind": "legal",
        "best_validation_nats_per_token": best.progress["best"],
    }

    read = run("evaluate", tmp_path / "run", "--data", tmp_path / "corpus", "--json")
    assert read.code == 0, read
    assert read.figures["kind"] == "legal"
    assert read.figures["split"] == "validation"
    assert read.figures["nats_per_token"] == pytest.approx(best.progress["best"], rel=0.01)  # it may be in bfloat16

    played = run("generate", tmp_path / "new.mid", "--model", tmp_path / "run", "--minutes", "0.05", "--seed", "1")
    assert (played.code, played.out) == (0, ""), played
    assert "seed 1" in played.err
    assert read_midi(tmp_path / "new.mid").seconds <= 3


def test_a_damaged_file_is_left_out_of_a_corpus_and_named(run, tmp_path):
    (tmp_path / "songs").mkdir()
    for size in (5, 6, 7):
        song(size).write(tmp_path / "songs" / f"{size}.mid")
    (tmp_path / "songs/broken.mid").write_bytes(b"MThd")
    prepared = run("data", "prepare", tmp_path / "songs", tmp_path / "corpus")
    assert (prepared.code, prepared.out) == (0, "")
    assert "skipped broken.mid: " in prepared.err
    assert sum(piece["notes"] for piece in json.loads((tmp_path / "corpus/manifest.json").read_text())["pieces"]) == 18


def test_generate_plays_what_the_library_plays_and_its_figures_are_those_of_the_file(run, model, tmp_path):
    out, png = tmp_path / "new.mid", tmp_path / "new.png"
    outcome = run("generate", out, "--model", model, "--minutes", "0.2", "--seed", "5", "--png", png, "--json")
    assert outcome.code == 0, outcome
    expected = ritornello.load(str(model)).generate(seconds=12, seed=5, again=True)
    piece = read_midi(out)
    np.testing.assert_allclose(piece.onset, expected.piece.onset, atol=5e-4)
    np.testing.assert_allclose(piece.offset, expected.piece.offset, atol=5e-4)
    np.testing.assert_array_equal(piece.pitch, expected.piece.pitch)
    np.testing.assert_array_equal(piece.velocity, expected.piece.velocity)
    assert outcome.figures == {
        "file": str(out),
        "png": str(png),
        "seconds": round(piece.seconds, 2),
        "prompt_seconds": 0.0,
        "notes": len(piece),
        "tokens": expected.tokens,
        "seed": 5,
        "ended": expected.ended,
        "pieces": expected.pieces,
        "weights_trained_on": "made up",
        "weights_licence": "CC0",
    }
    assert len(piece) > 10
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert picture.width == 1600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.mid", "new.png"]


@pytest.mark.parametrize(
    ("option", "sampling"),
    [
        (["--temperature", "0"], {"temperature": 0}),
        (["--top-p", "0.3"], {"top_p": 0.3}),
        (["--min-p", "0.5"], {"min_p": 0.5}),
    ],
)
def test_sampling_options_reach_the_sampling(run, model, tmp_path, option, sampling):
    run("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.1", "--seed", "5", *option)
    performer = ritornello.load(str(model), sampling=ritornello.sampling.Sampling(**sampling))
    expected = performer.generate(seconds=6, seed=5).piece
    assert read_midi(tmp_path / "new.mid").pitch.tolist() == expected.pitch.tolist()
    plain = ritornello.load(str(model)).generate(seconds=6, seed=5).piece
    assert expected.pitch.tolist() != plain.pitch.tolist()


def test_a_seed_not_given_is_told_and_gives_the_same_file_again(run, model, tmp_path):
    first = run("generate", tmp_path / "a.mid", "--model", model, "--minutes", "0.1", "--json").figures["seed"]
    other = run("generate", tmp_path / "b.mid", "--model", model, "--minutes", "0.1", "--json").figures["seed"]
    assert first != other
    run("generate", tmp_path / "again.mid", "--model", model, "--minutes", "0.1", "--seed", first)
    assert (tmp_path / "again.mid").read_bytes() == (tmp_path / "a.mid").read_bytes()
    assert (tmp_path / "again.mid").read_bytes() != (tmp_path / "b.mid").read_bytes()


def test_continue_keeps_the_prompt_and_plays_on(run, model, tmp_path):
    source, out, png = tmp_path / "mine.mid", tmp_path / "longer.mid", tmp_path / "longer.png"
    song(20).write(source)
    outcome = run(
        *("continue", source, out, "--prompt-seconds", "5.3", "--minutes", "0.1", "--model", model, "--seed", "2"),
        *("--png", png, "--json"),
    )
    assert outcome.code == 0, outcome
    piece, figures = read_midi(out), outcome.figures
    rows = list(zip(piece.onset.round(3), piece.offset.round(3), piece.pitch.tolist(), piece.velocity.tolist()))
    for i in range(11):  # the notes struck before 5.3 s; the last ends at 5.25 s
        assert rows.count((i / 2, i / 2 + 0.25, 60 + i % 7, 64)) == 1, i
    assert figures["prompt_seconds"] == 5.25
    assert figures["seconds"] == round(piece.seconds, 2)
    assert 5.25 < piece.seconds <= 11.25
    assert figures["notes"] == len(piece) > 11
    assert figures["tokens"] > 11
    assert piece.title == "mine, continued by Ritornello"
    with Image.open(png) as picture:
        assert picture.format == "PNG"


def test_continue_can_leave_the_prompt_out(run, model, tmp_path):
    source, out, new, png = (tmp_path / name for name in ("mine.mid", "longer.mid", "new.mid", "new.png"))
    song(20).write(source)
    arguments = ("--prompt-seconds", "5.1", "--minutes", "0.1", "--model", model, "--seed", "2")
    assert run("continue", source, out, *arguments).code == 0
    outcome = run("continue", source, new, *arguments, "--only-new", "--png", png, "--json")
    assert outcome.code == 0, outcome
    whole, part = read_midi(out), read_midi(new)
    # The last of the prompt's notes is struck at 5.0 s, where the prompt ends: it still sounds there, and stays out.
    assert outcome.figures["prompt_seconds"] == 0.0
    later = whole.onset > 5.005
    assert 0 < int(later.sum()) == len(part) == outcome.figures["notes"]
    assert part.pitch.tolist() == whole.pitch[later].tolist()
    assert np.allclose(part.onset, whole.onset[later] - 5.0, atol=0.002)
    assert np.allclose(part.offset, whole.offset[later] - 5.0, atol=0.002)
    assert png.exists()


def by_hand(model: Path, sizes: tuple[int, ...], *, legal: bool) -> list[float]:
    """-ln p of every token of the songs, token by token, each song from an empty state."""
    network, nats = from_checkpoint(load_checkpoint(model)), []
    for size in sizes:
        tokens = codec.encode(song(size)).astype(int)
        inputs = torch.tensor([[codec.START, *tokens[:-1]]])
        with torch.no_grad():
            logits = network(inputs, network.initial_state(1))[0][0].double().numpy()
        grammar = codec.Grammar()
        for token, row in zip(tokens.tolist(), logits):
            weight = np.exp(row - row.max()) * (grammar.legal() if legal else 1)
            nats.append(math.log(weight.sum() / weight[token]))
            grammar.advance(token)
    return nats


@pytest.mark.parametrize(("switch", "legal"), [([], True), (["--legal"], True), (["--free"], False)])
def test_evaluate_gives_the_likelihood_computed_by_hand(run, model, corpus, switch, legal):
    """Without a switch it is as the model was trained: under the grammar."""
    outcome = run("evaluate", model, "--data", corpus, "--split", "validation", "--json", *switch)
    assert outcome.code == 0, outcome
    nats, figures = by_hand(model, VALIDATION, legal=legal), outcome.figures
    assert len(nats) == sum(map(tokens_of, VALIDATION))
    mean = math.fsum(nats) / len(nats)
    assert figures["kind"] == ("legal" if legal else "free")
    assert (figures["pieces"], figures["tokens"]) == (2, len(nats))
    assert figures["nats_per_token"] == pytest.approx(mean, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert figures["nats_per_note"] == pytest.approx(math.fsum(nats) / sum(VALIDATION), rel=1e-5)
    seconds = sum((size - 1) / 2 + 0.25 for size in VALIDATION)
    assert figures["nats_per_second"] == pytest.approx(math.fsum(nats) / seconds, rel=1e-5)
    assert (figures["model"], figures["data"], figures["split"]) == (str(model), "made up", "validation")


def test_evaluate_takes_another_schedule_and_any_number_of_lanes(run, model, corpus):
    plain, same, other = (
        run("evaluate", model, "--data", corpus, "--json", *more).figures
        for more in ([], ["--lanes", "1"], ["--schedule", "uniform(0)"])
    )
    assert same["nats_per_token"] == pytest.approx(plain["nats_per_token"], rel=1e-5)
    assert other["nats_per_token"] != pytest.approx(plain["nats_per_token"], rel=1e-3)
    assert (plain["schedule"], other["schedule"]) == ("32, 2x8", "3x0")


def test_evaluate_without_json_is_a_table_beside_the_output(run, model, corpus):
    outcome = run("evaluate", model, "--data", corpus, "--split", "test")
    assert (outcome.code, outcome.out) == (0, "")
    assert "perplexity" in outcome.err


def test_a_terminal_sees_how_far_it_is(run, model, corpus, tmp_path, monkeypatch):
    be_a_terminal(monkeypatch)
    played = run("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.1", "--seed", "1")
    assert played.code == 0
    assert "of music" in played.err
    options = ("--recipe", "tiny", "--steps", "2", "--device", "cpu")
    trained = run("train", "--data", corpus, "--out", tmp_path / "run", *options)
    assert trained.code == 0
    assert "step 2" in trained.err


def test_python_m_ritornello_is_the_same_command(tmp_path):
    command = [sys.executable, "-m", "ritornello"]
    helped, refused = (
        subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path)
        for arguments in (["generate", "--help"], ["continue", "nothing.mid", "out.mid"])
    )
    assert helped.returncode == 0
    assert "Example: ritornello generate" in helped.stdout
    assert_refused(Outcome(refused.returncode, refused.stdout, refused.stderr), "nothing.mid", "cannot be read")
    assert_empty(tmp_path)


# ---- bad arguments ----

BAD_PLAYING = [
    (["--minutes", "0"], ["0 minutes", "above 0"]),
    (["--minutes", "-1"], ["-1 minutes", "1440"]),
    (["--minutes", "1e9"], ["1e+09 minutes", "1440"]),
    (["--minutes", "nan"], ["nan minutes"]),
    (["--minutes", "inf"], ["inf minutes"]),
    (["--minutes", "long"], ["--minutes", "number"]),
    (["--temperature", "-1"], ["temperature is -1", "between 0 and 100"]),
    (["--temperature", "nan"], ["temperature is nan"]),
    (["--top-p", "0"], ["top_p is 0", "above 0"]),
    (["--top-p", "1.5"], ["top_p is 1.5"]),
    (["--min-p", "-0.1"], ["min_p is -0.1"]),
    (["--seed", "-1"], ["--seed", "0"]),
    (["--seed", "1.5"], ["--seed", "integer"]),
    (["--engine", "tuba"], ["'tuba'", "torch"]),
    (["--model", "nothing"], ["nothing", "no checkpoint there"]),
    (["--colour", "red"], ["--colour", "--help"]),
    (["--minutes"], ["--minutes", "--help"]),
]


@pytest.mark.parametrize(("option", "words"), BAD_PLAYING, ids=lambda part: " ".join(part))
def test_a_bad_number_or_name_gets_one_line_before_anything_is_played(run, model, tmp_path, option, words, monkeypatch):
    monkeypatch.setattr(Performer, "stream", None)
    source = tmp_path / "in" / "mine.mid"
    source.parent.mkdir()
    song(4).write(source)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "new.mid"
    given = [] if "--model" in option else ["--model", model]
    assert_refused(run("generate", out, *given, *option), *words)
    continued = run("continue", source, out, *given, *option)
    assert_refused(continued, *words)
    assert str(source) not in continued.err, "which is not to blame"
    assert_empty(out.parent)


@pytest.mark.parametrize("prompt_s", ["0", "-1", "nan", "0.001"])
def test_a_prompt_without_music_gets_one_line(run, model, tmp_path, prompt_s):
    song(4).stretched(1.0).write(tmp_path / "mine.mid")
    outcome = run(
        "continue", tmp_path / "mine.mid", tmp_path / "out.mid", "--model", model, "--prompt-seconds", prompt_s
    )
    assert_refused(outcome, tmp_path / "mine.mid", "prompt")
    assert not (tmp_path / "out.mid").exists()


def test_a_prompt_before_the_first_note_is_told_where_that_is(run, model, tmp_path):
    Piece.from_notes([(7.5, 8, 60, 60)]).write(tmp_path / "late.mid")
    outcome = run("continue", tmp_path / "late.mid", tmp_path / "out.mid", "--model", model, "--prompt-seconds", "7")
    assert_refused(outcome, tmp_path / "late.mid", "no notes", "7.50 s", "more of it")


BAD_TRAINING = [
    (["--steps", "0"], ["steps", "1"]),
    (["--steps", "-5"], ["steps", "1"]),
    (["--hours", "-1"], ["hours is -1"]),
    (["--hours", "0"], ["hours is 0"]),
    (["--hours", "nan"], ["hours is nan"]),
    (["--hours", "1e9"], ["hours is 1000000000"]),
    (["--seed", "-1"], ["--seed", "0"]),
    (["--seed", str(2**64)], ["--seed", str(2**63 - 1)]),
    (["--recipe", "paella"], ["'paella'", "tiny, study, small"]),
    (["--schedule", "sometimes"], ["'sometimes'", "two_scale"]),
    (["--schedule", "4x16"], ["4x16", "3"]),
    (["--init", "nothing"], ["nothing", "no checkpoint there"]),
    (["--device", "abacus"], ["'abacus'", "cpu"]),
    (["--device", "meta"], ["'meta'", "cpu"]),
    (["--data", "nowhere"], ["nowhere", "no corpus here", "data prepare"]),
]


@pytest.mark.parametrize(("option", "words"), BAD_TRAINING, ids=lambda part: " ".join(part))
def test_bad_settings_of_a_training_get_one_line_and_leave_nothing(run, corpus, tmp_path, option, words):
    settings = {"--data": str(corpus), "--recipe": "tiny", "--steps": "1", "--device": "cpu"} | {option[0]: option[1]}
    assert_refused(
        run("train", "--out", tmp_path / "run", *(word for pair in settings.items() for word in pair)), *words
    )
    assert_empty(tmp_path)


BAD_EVALUATION = [
    (["--lanes", "0"], ["--lanes", "1"]),
    (["--split", "dev"], ["--split", "validation"]),
    (["--schedule", "sometimes"], ["'sometimes'", "two_scale"]),
    (["--schedule", "9x16"], ["9x16", "3"]),
    (["--device", "abacus"], ["'abacus'", "cpu"]),
    (["--data", "nowhere"], ["nowhere", "no corpus here", "data prepare"]),
]


@pytest.mark.parametrize(("option", "words"), BAD_EVALUATION, ids=lambda part: " ".join(part))
def test_bad_settings_of_an_evaluation_get_one_line(run, model, corpus, option, words):
    settings = {"--data": str(corpus), "--device": "cpu"} | {option[0]: option[1]}
    assert_refused(run("evaluate", model, *(word for pair in settings.items() for word in pair)), *words)


def test_a_device_that_is_not_here_gets_one_line(run, model, corpus):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    assert_refused(run("evaluate", model, "--data", corpus, "--device", "cuda"), "'cuda'", "cpu")


@pytest.mark.parametrize("arguments", [["sing"], ["data"], ["data", "sing"], ["generate"], ["evaluate", "small"]])
def test_a_verb_or_argument_that_is_wrong_or_missing_gets_one_line_with_the_way_to_help(run, arguments):
    assert_refused(run(*arguments), "; see '", "--help'")


# ---- bad files ----


def bad_midi(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that cannot be continued, and a word of what is wrong with them."""
    song(9).write(folder / "whole.mid")
    whole = (folder / "whole.mid").read_bytes()
    contents = {
        "text.mid": (b"dear diary, " * 20, "MIDI"),
        "empty.mid": (b"", "empty"),
        "truncated.mid": (whole[: len(whole) // 2], "cut short"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    Piece.from_notes([], pedals=[(0, 1)]).write(folder / "silent.mid")
    (folder / "folder.mid").mkdir()
    words = {name: (folder / name, word) for name, (_, word) in contents.items()}
    words["silent.mid"] = (folder / "silent.mid", "no notes")
    words["folder.mid"] = (folder / "folder.mid", "is a folder")
    words["missing.mid"] = (folder / "missing.mid", "cannot be read")
    return words


@pytest.mark.parametrize("case", ["text", "empty", "truncated", "silent", "folder", "missing"])
def test_a_file_that_cannot_be_continued_is_named_with_its_fault(run, model, tmp_path, case):
    path, fault = bad_midi(tmp_path)[f"{case}.mid"]
    outcome = run("continue", path, tmp_path / "out.mid", "--model", model)
    assert_refused(outcome, path, fault)
    assert re.search(r"; (get|give|check|name) ", outcome.err), f"no remedy: {outcome.err}"
    assert not (tmp_path / "out.mid").exists()


def test_sources_that_hold_nothing_usable_get_one_line_and_leave_nothing(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/text.mid").write_text("dear diary")
    (tmp_path / "a file").write_text("dear diary")
    for source, fault in {
        "empty": "no .mid",
        "nowhere": "not a folder",
        "a file": "not a folder",
        "bad": "none of 1 files could be used",
    }.items():
        outcome = run("data", "prepare", tmp_path / source, tmp_path / "corpus", "--json")
        assert_refused(outcome, tmp_path / source, fault)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "bad", "empty"]


def test_a_corpus_made_with_another_vocabulary_gets_one_line(run, model, tmp_path):
    folder = write_corpus(tmp_path / "corpus", {"train": [codec.encode(song(9))]}).path
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"vocabulary": "0123456789abcdef"}))
    assert_refused(run("evaluate", model, "--data", folder), folder, "another vocabulary", "prepare")
    outcome = run("train", "--data", folder, "--out", tmp_path / "run", "--recipe", "tiny", "--steps", "1")
    assert_refused(outcome, folder, "another vocabulary", "prepare")
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_the_split_names_those_there_are(run, model, tmp_path):
    folder = write_corpus(tmp_path / "corpus", {"train": [codec.encode(song(9))]}).path
    assert_refused(run("evaluate", model, "--data", folder, "--split", "test"), folder, "'test'", "train (1)")


def damage_weights(folder: Path) -> None:
    (path,) = folder.glob("weights-*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def damage_manifest(folder: Path) -> None:
    text = (folder / "checkpoint.json").read_text()
    (folder / "checkpoint.json").write_text(text[: len(text) // 2])


def lose_weights(folder: Path) -> None:
    (path,) = folder.glob("weights-*.safetensors")
    path.unlink()


def change(**entries: Any) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        manifest = json.loads((folder / "checkpoint.json").read_text())
        for name, value in entries.items():
            manifest[name] = manifest[name] | value if isinstance(value, dict) else value
        (folder / "checkpoint.json").write_text(json.dumps(manifest))

    return rewrite


BAD_MODELS = {
    "weights cut short": (damage_weights, "cut short"),
    "weights lost": (lose_weights, "cannot be read"),
    "manifest cut short": (damage_manifest, "cut short"),
    "other vocabulary": (change(vocabulary="0123456789abcdef"), "another vocabulary"),
    "other version": (change(format=99), "update ritornello"),
    "other model's config": (change(config={"width": 64}), "of another model"),
    "more layers": (change(config={"schedule": "4x8"}), "of another model"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_is_damaged_or_another_is_named_with_its_fault(run, copied_model, corpus, tmp_path, case):
    damage, fault = BAD_MODELS[case]
    damage(copied_model)
    out = tmp_path / "out.mid"
    assert_refused(run("generate", out, "--model", copied_model), copied_model, fault)
    assert_refused(run("evaluate", copied_model, "--data", corpus), copied_model, fault)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [({"family": "tuba"}, "'tuba'"), ({"config": {"valves": 3}}, "valves")],
    ids=["family", "config"],
)
def test_a_model_of_a_kind_not_known_here_gets_one_line(run, copied_model, corpus, tmp_path, changed, fault):
    change(**changed)(copied_model)
    assert_refused(run("generate", tmp_path / "out.mid", "--model", copied_model), fault)
    assert_refused(run("evaluate", copied_model, "--data", corpus), fault)


def test_weights_that_are_no_numbers_get_one_line_instead_of_endless_silence(run, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    save_model(model, tmp_path / "model")
    assert_refused(run("generate", tmp_path / "out.mid", "--model", tmp_path / "model"), "damaged")
    assert not (tmp_path / "out.mid").exists()


# ---- places that cannot be written ----


@pytest.mark.parametrize("which", ["music", "picture"])
@pytest.mark.parametrize("place", ["missing/new.mid", "folder", "n" * 300 + ".mid"])
def test_a_place_that_cannot_be_written_is_refused_before_any_music_is_played(run, tmp_path, place, which, monkeypatch):
    """Not even the model is loaded: there is none of that name."""
    monkeypatch.setattr("ritornello.performing.load", None)
    (tmp_path / "folder").mkdir()
    song(4).write(tmp_path / "mine.mid")
    out, png = tmp_path / place, tmp_path / "new.png"
    if which == "picture":
        out, png = tmp_path / "new.mid", tmp_path / place
    assert_refused(run("generate", out, "--png", png), tmp_path / place)
    assert_refused(run("continue", tmp_path / "mine.mid", out, "--png", png), tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "mine.mid"]


def test_the_picture_may_not_take_the_music_s_place(run, model, tmp_path):
    out = tmp_path / "new.mid"
    assert_refused(run("generate", out, "--model", model, "--png", out), out, "another file")
    assert_empty(tmp_path)


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """No file grows beyond the limit."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_leaves_no_half_file(run, model, tmp_path):
    command = ("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.2", "--seed", "1")
    with full_disk(60):
        outcome = run(*command)
    assert_refused(outcome, tmp_path / "new.mid", "cannot be written")
    assert_empty(tmp_path)
    assert run(*command).code == 0
    assert (tmp_path / "new.mid").stat().st_size > 60, "else the disk was not too small"


def test_a_disk_that_fills_leaves_the_older_file_as_it_was(run, model, tmp_path):
    song(3).write(tmp_path / "mine.mid")
    before = (tmp_path / "mine.mid").read_bytes()
    with full_disk(60):
        outcome = run("continue", tmp_path / "mine.mid", tmp_path / "mine.mid", "--model", model, "--minutes", "0.2")
    assert_refused(outcome, tmp_path / "mine.mid", "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.mid"]
    assert (tmp_path / "mine.mid").read_bytes() == before


def test_a_disk_too_small_for_the_picture_keeps_the_music(run, model, tmp_path):
    out, png = tmp_path / "new.mid", tmp_path / "new.png"
    with full_disk(4000):
        outcome = run("generate", out, "--model", model, "--minutes", "0.2", "--seed", "1", "--png", png)
    assert_refused(outcome, png, "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["new.mid"]
    assert len(read_midi(out))


def test_a_disk_that_fills_in_training_gets_one_line(run, corpus, tmp_path):
    with full_disk(20_000):
        options = ("--recipe", "tiny", "--steps", "2", "--device", "cpu")
        outcome = run("train", "--data", corpus, "--out", tmp_path / "run", *options)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: "), outcome.err
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs a way to lose rights")
def test_without_the_right_to_read_or_write_there_is_one_line(run, model, tmp_path, monkeypatch):
    """Everything is run once with all rights first, so that nothing need be imported without them."""
    closed = tmp_path / "closed"
    (closed / "songs").mkdir(parents=True)
    for folder in (closed, closed / "songs"):
        song(4).write(folder / "mine.mid")
    free, readable = tmp_path / "free", tmp_path / "readable"
    free.mkdir()
    readable.mkdir()
    commands = {
        ("data", "prepare", closed, free / "corpus"): closed,
        ("data", "prepare", closed / "songs", free / "corpus"): closed / "songs",
        ("continue", closed / "mine.mid", free / "out.mid", "--model", model): closed / "mine.mid",
        ("generate", closed / "out.mid", "--model", model, "--minutes", "0.01"): closed / "out.mid",
        ("generate", free / "out.mid", "--model", closed / "songs"): closed / "songs",
        ("generate", readable / "out.mid", "--model", closed / "songs"): readable / "out.mid",
    }
    assert run("generate", free / "out.mid", "--model", model, "--minutes", "0.01").code == 0
    assert_refused(run("data", "prepare", tmp_path / "nowhere", tmp_path / "corpus"))
    monkeypatch.setattr(Performer, "stream", None)
    names = sorted(tmp_path.rglob("*"))
    free.chmod(0o777)
    readable.chmod(0o555)
    with losing_rights(closed):
        outcomes = {command: run(*command) for command in commands}
    for command, named in commands.items():
        assert_refused(outcomes[command], named)
    assert sorted(tmp_path.rglob("*")) == names


@contextmanager
def losing_rights(closed: Path) -> Iterator[None]:
    """Nothing in the folder can be reached. Root can reach everything, so it becomes nobody for a while."""
    is_root = os.geteuid() == 0
    shut = [path for path in closed.parents if is_root and path.stat().st_mode & 0o055 != 0o055]
    modes = {path: path.stat().st_mode for path in (closed, *shut)}
    closed.chmod(0)
    for path in shut:
        path.chmod(modes[path] | 0o055)
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for path, mode in modes.items():
            path.chmod(mode)


# ---- odd but good ----


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_names_are_shown_as_they_are(run, model, tmp_path, monkeypatch, terminal):
    """They are no markup, neither in lines nor in tables nor beside a progress bar."""
    if terminal:
        be_a_terminal(monkeypatch)
    outcome = run("generate", tmp_path / "new [live].mid", "--model", model, "--minutes", "0.02", "--seed", "1")
    assert "new [live].mid: " in outcome.err
    (tmp_path / "songs" / "[").mkdir(parents=True)
    song(4).write(tmp_path / "songs" / "[/red].mid")
    outcome = run("data", "prepare", tmp_path / "songs", tmp_path / "corpus", "--name", "my [loud] songs")
    assert outcome.code == 0, outcome
    assert "my [loud] songs" in outcome.err
    assert not terminal or "[/red].mid" in outcome.err


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are bytes")
def test_a_file_name_that_is_no_text_is_as_good_as_any(run, model, tmp_path):
    name = b"caf\xe9.mid".decode("utf-8", "surrogateescape")
    song(4).write(tmp_path / name)
    outcome = run("continue", tmp_path / name, tmp_path / ("2" + name), "--model", model, "--minutes", "0.05", "--json")
    assert outcome.code == 0, outcome
    assert outcome.figures["file"] == str(tmp_path / ("2" + name))
    assert read_midi(tmp_path / ("2" + name)).title == "caf?, continued by Ritornello"


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_stops_without_a_word_too_many_and_without_a_file(run, model, tmp_path, monkeypatch, error):
    """Typer turns the first into the second or into an exit, as its version likes."""

    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Performer, "generate", interrupted)
    outcome = run("generate", tmp_path / "new.mid", "--model", model)
    assert (outcome.code, outcome.err.strip()) == (130, "")
    assert_empty(tmp_path)


def test_a_bug_is_not_passed_off_as_the_user_s_mistake(model, tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Performer, "generate", broken)
    monkeypatch.setattr(sys, "argv", ["ritornello", "generate", str(tmp_path / "new.mid"), "--model", str(model)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# ---- where the model ends a piece ----


def test_single_stops_where_the_model_ends_the_piece_and_else_others_follow(run, tmp_path, monkeypatch):
    from test_performing import an_ending_engine  # half a second of music, then END

    monkeypatch.setattr("ritornello.performing.load_engine", lambda *_, **__: an_ending_engine())
    options = (tmp_path / "new.mid", "--minutes", "0.1", "--seed", "5", "--json")
    single, several = run("generate", *options, "--single").figures, run("generate", *options).figures
    assert (single["pieces"], single["seconds"], single["ended"]) == (1, 0.5, True)
    assert (several["pieces"], several["seconds"]) == (3, 5.5)
    assert "3 pieces" in run("generate", *options[:-1]).err


def test_a_piece_cannot_both_end_and_not_end(run, model, tmp_path):
    outcome = run("generate", tmp_path / "new.mid", "--model", model, "--single", "--full-length")
    assert_refused(outcome, "--single")
    assert not (tmp_path / "new.mid").exists()


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (239.99, "4:00"), (3661.2, "61:01")])
def test_lengths_are_said_to_the_nearest_second(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
