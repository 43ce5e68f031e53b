"""The command line: every verb works from end to end, its figures are right, and names are shown as they are."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from command import SIZES, Outcome, assert_empty, assert_refused, song, tokens_of
from PIL import Image
from scripted import an_ending_engine
from tiny import made_up_tokens, write_corpus

import ritornello
from ritornello import cli, codec
from ritornello.checkpoint import load_checkpoint
from ritornello.cli.tuning import recipe_for
from ritornello.corpus import Corpus
from ritornello.midi import read_midi
from ritornello.models import from_checkpoint
from ritornello.performing import Performer
from ritornello.rendering.scene import clock
from ritornello.training.recipes import recipe_named


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for split, sizes in SIZES.items():
        (folder / split).mkdir()
        for size in sizes:
            song(size).write(folder / split / f"{size}.mid")
    return folder


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
def test_every_verb_helps_with_an_example(command, verb):
    outcome = command(*verb.split()[1:], "--help")
    assert outcome.code == 0
    assert f"Example: {verb} " in " ".join(outcome.out.split())


@pytest.mark.parametrize("verb", verbs())
def test_every_example_is_one_that_the_verb_understands(verb):
    found = re.search(r"Example: (.*)", verbs()[verb].epilog)
    assert found, verb
    arguments = shlex.split(found[1])[len(verb.split()) :]
    verbs()[verb].make_context(verb, arguments)


def test_alone_it_shows_its_verbs(command):
    outcome = command()
    assert outcome.code == 0
    assert "generate" in outcome.out


def test_the_version_is_the_installed_one(command):
    assert command("--version").out == f"{version('ritornello')}\n"


def test_quiet_leaves_results_and_errors(command, model, tmp_path, monkeypatch):
    monkeypatch.setenv("RITORNELLO_QUIET", "")
    played = command("--quiet", "generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.02")
    assert (played.code, played.out, played.err) == (0, "", "")
    assert "dsmr" in command("--quiet", "info", model).out
    assert_refused(command("--quiet", "info", tmp_path / "nothing"), "nothing")
    assert command("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.02").err == ""  # as set by now


def test_the_shell_can_complete_verbs():
    asked = {"_RITORNELLO_COMPLETE": "complete_bash", "COMP_WORDS": "ritornello gen", "COMP_CWORD": "1"}
    program = "import sys; sys.argv = ['ritornello']; from ritornello.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout == "generate\n", done


# ---- from end to end ----


def test_songs_become_a_corpus_a_model_its_likelihood_and_a_new_piece(command, songs, tmp_path):
    prepared = command("data", "prepare", songs, tmp_path / "corpus", "--licence", "CC0", "--json")
    assert prepared.code == 0, prepared
    for split, sizes in SIZES.items():
        assert prepared.figures["splits"][split] == {
            "pieces": len(sizes),
            "tokens": sum(map(tokens_of, sizes)),
            "notes": sum(sizes),
            "hours": round(sum((size - 1) / 2 + 0.25 for size in sizes) / 3600, 2),
        }
    assert prepared.figures["skipped"] == prepared.figures["duplicates"] == []

    options = ("--recipe", "tiny", "--steps", "3", "--device", "cpu", "--json")
    trained = command("train", "--data", tmp_path / "corpus", "--out", tmp_path / "run", *options)
    assert trained.code == 0, trained
    best = load_checkpoint(tmp_path / "run")
    data = {"name": "corpus", "licence": "CC0", "shortest_s": (min(SIZES["train"]) - 1) / 2 + 0.25}
    assert (best.run["step"], best.trained_on) == (3, data)
    assert trained.figures == {
        "run": str(tmp_path / "run"),
        "kind": "legal",
        "best_validation_nats_per_token": best.run["best"],
    }

    read = command("evaluate", tmp_path / "run", "--data", tmp_path / "corpus", "--json")
    assert read.code == 0, read
    assert read.figures["kind"] == "legal"
    assert read.figures["split"] == "validation"
    assert read.figures["nats_per_token"] == pytest.approx(best.run["best"], rel=0.01)  # it may be in bfloat16

    played = command("generate", tmp_path / "new.mid", "--model", tmp_path / "run", "--minutes", "0.05", "--seed", "1")
    assert (played.code, played.out) == (0, ""), played
    assert "seed 1" in played.err
    assert read_midi(tmp_path / "new.mid").seconds <= 3


def test_a_folder_of_files_is_packed_held_out_in_part_and_heard_before_and_after(command, model, tmp_path, monkeypatch):
    monkeypatch.setattr("ritornello.cli.tuning.PLAYED_S", 1.0)
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for size in range(20, 30):
        song(size).write(Path("mine") / f"{size}.mid")
    Path("mine/broken.mid").write_bytes(b"MThd")
    options = ("--data", "mine", "--init", model, "--steps", "2", "--device", "cpu")
    done = command("train", *options, "--json")
    assert done.code == 0, done
    assert "skipped broken.mid: " in done.err
    assert Corpus.open("runs/mine/corpus").splits() == {"train": 8, "validation": 1, "test": 1}
    held_out = done.figures["held_out"]
    for name, which in (("before", model), ("after", "runs/mine")):
        read = command("evaluate", which, "--data", "runs/mine/corpus", "--split", "test", "--legal", "--json").figures
        assert held_out[name]["nats_per_token"] == pytest.approx(read["nats_per_token"], abs=1e-6)
        assert read_midi(Path("runs/mine") / f"{name}.mid").seconds <= 1.0
    settings = load_checkpoint("runs/mine/last").run["recipe"]
    assert (settings["name"], settings["lanes"], settings["interleave"]) == ("tune", 8, 1)
    assert_refused(command("train", *options), "runs/mine", "--resume")
    assert command("train", *options[:4], "--out", "two", "--lanes", "2", "--device", "cpu").code == 0
    two, tokens = load_checkpoint("two/last"), sum(p.tokens for p in Corpus.open("two/corpus").pieces("train"))
    assert two.run["step"] == math.ceil(2 * tokens / (2 * two.config["segment_tokens"]))


def test_a_model_is_fine_tuned_in_two_passes_at_most(model, tmp_path):
    """However many lanes; with more it knows held-out pieces no better (`docs/tuning.md`)."""
    tokens = [codec.encode(song(20 + size)) for size in range(8)]
    few = write_corpus(tmp_path / "few", {"train": tokens, "validation": tokens[:1]})
    many = write_corpus(tmp_path / "many", {"train": tokens * 1000, "validation": tokens[:1]})
    total, segment = sum(map(len, tokens)), load_checkpoint(model).config["segment_tokens"]
    for lanes in (1, 8):
        steps = math.ceil(2 * total / (lanes * segment))
        recipe = recipe_for(few, model, torch.device("cpu"), lanes)
        assert recipe.steps == steps < recipe_named("tune").steps
        assert 4 * max(recipe.warmup_steps, recipe.validate_every_steps) <= steps
    assert recipe_for(many, model, torch.device("cpu")) == replace(recipe_named("tune"), lanes=16)


def test_a_model_is_fine_tuned_as_gently_on_a_packed_corpus_as_on_files(command, model, corpus, tmp_path):
    """At a twentieth of the rates that `small` begins anew with; a recipe that is named has its own."""
    rates = []
    for run, options in (("init", []), ("named", ["--recipe", "tiny", "--set", "matrix_lr=0.007"])):
        given = ("--data", corpus, "--init", model, "--out", tmp_path / run, "--steps", "1", "--device", "cpu")
        assert command("train", *given, *options).code == 0
        recipe = load_checkpoint(tmp_path / run / "last").run["recipe"]
        rates.append((recipe["matrix_lr"], recipe["other_lr"]))
    small = recipe_named("small")
    assert rates[0] == (pytest.approx(small.matrix_lr / 20), pytest.approx(small.other_lr / 20))
    assert rates[1][0] == 0.007


def test_a_folder_without_music_is_refused_and_nothing_is_left(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/broken.mid").write_bytes(b"MThd")
    refused = command("train", "--data", tmp_path / "mine", "--out", tmp_path / "run", "--init", "base")
    assert_refused(refused, "broken.mid")
    refused = command("train", "--data", tmp_path / "mine", "--out", tmp_path / "run", "--init", tmp_path / "nothing")
    assert_refused(refused, "no checkpoint there")
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_left_out_of_a_corpus_and_named(command, tmp_path):
    (tmp_path / "songs").mkdir()
    for size in (5, 6, 7):
        song(size).write(tmp_path / "songs" / f"{size}.mid")
    (tmp_path / "songs/broken.mid").write_bytes(b"MThd")
    prepared = command("data", "prepare", tmp_path / "songs", tmp_path / "corpus")
    assert (prepared.code, "│ train" in prepared.out) == (0, True)
    assert "skipped broken.mid: " in prepared.err
    assert sum(piece.notes for piece in Corpus.open(tmp_path / "corpus").records) == 18


def test_generate_plays_what_the_library_plays_and_its_figures_are_those_of_the_file(command, model, tmp_path):
    out, png = tmp_path / "new.mid", tmp_path / "new.png"
    outcome = command("generate", out, "--model", model, "--minutes", "0.2", "--seed", "5", "--png", png, "--json")
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
def test_sampling_options_reach_the_sampling(command, model, tmp_path, option, sampling):
    command("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.1", "--seed", "5", *option)
    performer = ritornello.load(str(model), sampling=ritornello.sampling.Sampling(**sampling))
    expected = performer.generate(seconds=6, seed=5).piece
    assert read_midi(tmp_path / "new.mid").pitch.tolist() == expected.pitch.tolist()
    plain = ritornello.load(str(model)).generate(seconds=6, seed=5).piece
    assert expected.pitch.tolist() != plain.pitch.tolist()


def test_a_seed_not_given_is_told_and_gives_the_same_file_again(command, model, tmp_path):
    first = command("generate", tmp_path / "a.mid", "--model", model, "--minutes", "0.1", "--json").figures["seed"]
    other = command("generate", tmp_path / "b.mid", "--model", model, "--minutes", "0.1", "--json").figures["seed"]
    assert first != other
    command("generate", tmp_path / "again.mid", "--model", model, "--minutes", "0.1", "--seed", first)
    assert (tmp_path / "again.mid").read_bytes() == (tmp_path / "a.mid").read_bytes()
    assert (tmp_path / "again.mid").read_bytes() != (tmp_path / "b.mid").read_bytes()


def test_a_pedal_is_written_where_one_is_asked_for_and_nothing_sounds_otherwise(command, model, tmp_path):
    source, plain, pedalled = (tmp_path / name for name in ("mine.mid", "plain.mid", "pedalled.mid"))
    replace(song(20), pedals=np.array([[0.1, 0.9], [4.8, 9.0]])).write(source)
    rest = ("--prompt-seconds", "5.3", "--minutes", "0.2", "--model", model, "--seed", "2")
    assert command("continue", source, plain, *rest).code == 0
    assert command("continue", source, pedalled, *rest, "--pedal").code == 0
    piece = read_midi(pedalled)
    assert codec.encode(piece).tolist() == codec.encode(read_midi(plain)).tolist()
    # The prompt's own pedals stay, the second up to the border; what the model plays has some, and the plain file none.
    assert piece.pedals[:2].tolist() == read_midi(plain).pedals.tolist() == [[0.1, 0.9], [4.8, 5.3]]
    assert piece.pedals[2:, 0].min() > 5.3


def test_continue_keeps_the_prompt_and_plays_on(command, model, tmp_path):
    source, out, png = tmp_path / "mine.mid", tmp_path / "longer.mid", tmp_path / "longer.png"
    song(20).write(source)
    outcome = command(
        *("continue", source, out, "--prompt-seconds", "5.3", "--minutes", "0.1", "--model", model, "--seed", "2"),
        *("--png", png, "--json"),
    )
    assert outcome.code == 0, outcome
    piece, figures = read_midi(out), outcome.figures
    rows = list(zip(piece.onset.round(3), piece.offset.round(3), piece.pitch.tolist(), piece.velocity.tolist()))
    for i in range(11):  # the notes struck before 5.3 s; the last ends at 5.25 s
        assert rows.count((i / 2, i / 2 + 0.25, 60 + i % 7, 64)) == 1, i
    assert figures["prompt_seconds"] == 5.3
    assert figures["seconds"] == round(piece.seconds, 2)
    assert 5.3 < piece.seconds <= 11.3
    assert figures["notes"] == len(piece) > 11
    assert figures["tokens"] > 11
    assert piece.title == "mine, continued by Ritornello"
    with Image.open(png) as picture:
        assert picture.format == "PNG"


def test_continue_can_leave_the_prompt_out(command, model, tmp_path):
    source, out, new, png = (tmp_path / name for name in ("mine.mid", "longer.mid", "new.mid", "new.png"))
    song(20).write(source)
    arguments = ("--prompt-seconds", "5.1", "--minutes", "0.1", "--model", model, "--seed", "2")
    assert command("continue", source, out, *arguments).code == 0
    outcome = command("continue", source, new, *arguments, "--only-new", "--png", png, "--json")
    assert outcome.code == 0, outcome
    whole, part = read_midi(out), read_midi(new)
    # The last of the prompt's notes is struck at 5.0 s and still sounds where the prompt ends: it stays out.
    assert outcome.figures["prompt_seconds"] == 0.0
    later = whole.onset > 5.095
    assert 0 < int(later.sum()) == len(part) == outcome.figures["notes"]
    assert part.pitch.tolist() == whole.pitch[later].tolist()
    assert np.allclose(part.onset, whole.onset[later] - 5.1, atol=0.002)
    assert np.allclose(part.offset, whole.offset[later] - 5.1, atol=0.002)
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
def test_evaluate_gives_the_likelihood_computed_by_hand(command, model, corpus, switch, legal):
    """Without a switch it is as the model was trained: under the grammar."""
    outcome = command("evaluate", model, "--data", corpus, "--split", "validation", "--json", *switch)
    assert outcome.code == 0, outcome
    sizes = SIZES["validation"]
    nats, figures = by_hand(model, sizes, legal=legal), outcome.figures
    assert len(nats) == sum(map(tokens_of, sizes))
    mean = math.fsum(nats) / len(nats)
    assert figures["kind"] == ("legal" if legal else "free")
    assert (figures["pieces"], figures["tokens"]) == (2, len(nats))
    assert figures["nats_per_token"] == pytest.approx(mean, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert figures["nats_per_note"] == pytest.approx(math.fsum(nats) / sum(sizes), rel=1e-5)
    seconds = sum((size - 1) / 2 + 0.25 for size in sizes)
    assert figures["nats_per_second"] == pytest.approx(math.fsum(nats) / seconds, rel=1e-5)
    assert (figures["model"], figures["data"], figures["split"]) == (str(model), "made up", "validation")


def test_evaluate_takes_another_schedule_and_any_number_of_lanes(command, model, corpus):
    plain, same, other = (
        command("evaluate", model, "--data", corpus, "--json", *more).figures
        for more in ([], ["--lanes", "1"], ["--schedule", "uniform(0)"])
    )
    assert same["nats_per_token"] == pytest.approx(plain["nats_per_token"], rel=1e-5)
    assert other["nats_per_token"] != pytest.approx(plain["nats_per_token"], rel=1e-3)
    assert (plain["schedule"], other["schedule"]) == ("32, 2x8", "3x0")


def test_a_piece_without_a_note_is_said_to_have_none(command, model, tmp_path):
    silent = command("generate", tmp_path / "a.mid", "--model", model, "--minutes", 0.0002, "--temperature", 0)
    assert silent.code == 0
    assert ("no note" in silent.err) == (len(read_midi(tmp_path / "a.mid")) == 0)
    sounding = command("generate", tmp_path / "b.mid", "--model", model, "--minutes", 1)
    assert "no note" not in sounding.err


def test_evaluate_reads_passages_again_and_draws_what_that_gains(command, model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(0, 200, 300)}).path
    found = command("evaluate", model, "--data", corpus, "--repeats", "--png", tmp_path / "gains.svg", "--json")
    assert found.code == 0, found
    rows = found.figures["repeats"]
    assert [(row["gap_tokens"], row["pieces"]) for row in rows[:2]] == [(0, 2), (64, 2)]
    assert all(row["low"] <= row["gain"] <= row["high"] for row in rows)
    assert "repeat test" in (tmp_path / "gains.svg").read_text()
    shown = command("evaluate", model, "--data", corpus, "--repeats")
    assert f"{rows[0]['gain']:+.3f}" in shown.out
    assert "repeats" not in command("evaluate", model, "--data", corpus, "--json").figures
    assert command("evaluate", model, "--data", corpus, "--repeats", "--engine", "onnx").code == 2


def test_evaluate_without_json_prints_a_table_and_nothing_beside_it(command, model, corpus):
    outcome = command("evaluate", model, "--data", corpus, "--split", "test")
    assert (outcome.code, outcome.err) == (0, "")
    assert "perplexity" in outcome.out


def test_a_terminal_sees_how_far_it_is(command, model, corpus, tmp_path, monkeypatch):
    be_a_terminal(monkeypatch)
    played = command("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.1", "--seed", "1")
    assert played.code == 0
    assert "of music" in played.err
    options = ("--recipe", "tiny", "--steps", "2", "--device", "cpu")
    trained = command("train", "--data", corpus, "--out", tmp_path / "run", *options)
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


# ---- odd but good ----


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_names_are_shown_as_they_are(command, model, tmp_path, monkeypatch, terminal):
    """They are no markup, neither in lines nor in tables nor beside a progress bar."""
    if terminal:
        be_a_terminal(monkeypatch)
    outcome = command("generate", tmp_path / "new [live].mid", "--model", model, "--minutes", "0.02", "--seed", "1")
    assert "new [live].mid: " in outcome.err
    (tmp_path / "songs" / "[").mkdir(parents=True)
    song(4).write(tmp_path / "songs" / "[/red].mid")
    outcome = command("data", "prepare", tmp_path / "songs", tmp_path / "corpus", "--name", "my [loud] songs")
    assert outcome.code == 0, outcome
    assert "my [loud] songs" in outcome.out
    assert not terminal or "[/red].mid" in outcome.err


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are bytes")
def test_a_file_name_that_is_no_text_is_as_good_as_any(command, model, tmp_path):
    name = b"caf\xe9.mid".decode("utf-8", "surrogateescape")
    song(4).write(tmp_path / name)
    outcome = command(
        "continue", tmp_path / name, tmp_path / ("2" + name), "--model", model, "--minutes", "0.05", "--json"
    )
    assert outcome.code == 0, outcome
    assert outcome.figures["file"] == str(tmp_path / ("2" + name))
    assert read_midi(tmp_path / ("2" + name)).title == "caf?, continued by Ritornello"


@pytest.mark.parametrize("error", [KeyboardInterrupt, typer.Abort])
def test_ctrl_c_stops_without_a_word_too_many_and_without_a_file(command, model, tmp_path, monkeypatch, error):
    """Typer turns the first into the second or into an exit, as its version likes."""

    def interrupted(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Performer, "generate", interrupted)
    outcome = command("generate", tmp_path / "new.mid", "--model", model)
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


def test_single_stops_where_the_model_ends_the_piece_and_else_others_follow(command, tmp_path, monkeypatch):
    monkeypatch.setattr("ritornello.performing.load_engine", lambda *_, **__: an_ending_engine())
    options = (tmp_path / "new.mid", "--minutes", "0.1", "--seed", "5", "--json")
    single, several = command("generate", *options, "--single").figures, command("generate", *options).figures
    assert (single["pieces"], single["seconds"], single["ended"]) == (1, 0.5, True)
    assert (several["pieces"], several["seconds"]) == (3, 5.5)
    assert "3 pieces" in command("generate", *options[:-1]).err


def test_a_piece_cannot_both_end_and_not_end(command, model, tmp_path):
    outcome = command("generate", tmp_path / "new.mid", "--model", model, "--single", "--full-length")
    assert_refused(outcome, "--single")
    assert not (tmp_path / "new.mid").exists()


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (239.99, "4:00"), (3661.2, "61:01")])
def test_lengths_are_said_to_the_nearest_second(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "5"}, None)],
    ids=["nothing given", "policy given", "spins given"],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(command, monkeypatch, given, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert command("--help").code == 0
    assert os.environ.get("OMP_WAIT_POLICY") == expected
