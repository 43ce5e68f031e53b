"""Bad arguments and bad files get one line that names them and code 2, and leave nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import assert_empty, assert_refused, song
from definition import tiny_model
from tiny import save_model

from ritornello.files import with_checksum
from ritornello.notes import Piece
from ritornello.take import Take


@pytest.fixture
def copied_model(tmp_path) -> Path:
    return save_model(tiny_model(), tmp_path / "model")


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
def test_a_bad_number_or_name_gets_one_line_before_anything_is_played(
    command, model, tmp_path, option, words, monkeypatch
):
    monkeypatch.setattr(Take, "play", None)
    source = tmp_path / "in" / "mine.mid"
    source.parent.mkdir()
    song(4).write(source)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "new.mid"
    given = [] if "--model" in option else ["--model", model]
    assert_refused(command("generate", out, *given, *option), *words)
    continued = command("continue", source, out, *given, *option)
    assert_refused(continued, *words)
    assert str(source) not in continued.err, "which is not to blame"
    assert_empty(out.parent)


@pytest.mark.parametrize("prompt_s", ["0", "-1", "nan", "0.001"])
def test_a_prompt_without_music_gets_one_line(command, model, tmp_path, prompt_s):
    song(4).stretched(1.0).write(tmp_path / "mine.mid")
    outcome = command(
        "continue", tmp_path / "mine.mid", tmp_path / "out.mid", "--model", model, "--prompt-seconds", prompt_s
    )
    assert_refused(outcome, tmp_path / "mine.mid", "prompt")
    assert not (tmp_path / "out.mid").exists()


def test_a_prompt_before_the_first_note_is_told_where_that_is(command, model, tmp_path):
    Piece.from_notes([(7.5, 8, 60, 60)]).write(tmp_path / "late.mid")
    outcome = command(
        "continue", tmp_path / "late.mid", tmp_path / "out.mid", "--model", model, "--prompt-seconds", "7"
    )
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
def test_bad_settings_of_a_training_get_one_line_and_leave_nothing(command, corpus, tmp_path, option, words):
    settings = {"--data": str(corpus), "--recipe": "tiny", "--steps": "1", "--device": "cpu"} | {option[0]: option[1]}
    assert_refused(
        command("train", "--out", tmp_path / "run", *(word for pair in settings.items() for word in pair)), *words
    )
    assert_empty(tmp_path)


BAD_EVALUATION = [
    (["--lanes", "0"], ["--lanes", "1"]),
    (["--split", "dev"], ["--split", "validation"]),
    (["--schedule", "sometimes"], ["'sometimes'", "two_scale"]),
    (["--schedule", "9x16"], ["9x16", "3"]),
    (["--device", "abacus"], ["'abacus'", "cpu"]),
    (["--data", "nowhere"], ["nowhere", "no corpus here", "data prepare"]),
    (["--png", "no/such/folder/repeats.png"], ["repeats.png", "folder does not exist"]),
    (["--png", "repeats.png"], ["validation", "760", "repeat test"]),
]


@pytest.mark.parametrize(("option", "words"), BAD_EVALUATION, ids=lambda part: " ".join(part))
def test_bad_settings_of_an_evaluation_get_one_line(command, model, corpus, option, words):
    settings = {"--data": str(corpus), "--device": "cpu"} | {option[0]: option[1]}
    assert_refused(command("evaluate", model, *(word for pair in settings.items() for word in pair)), *words)


def test_a_device_that_is_not_here_gets_one_line(command, model, corpus):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    assert_refused(command("evaluate", model, "--data", corpus, "--device", "cuda"), "'cuda'", "cpu")


@pytest.mark.parametrize("arguments", [["sing"], ["data"], ["data", "sing"], ["generate"], ["evaluate", "base"]])
def test_a_verb_or_argument_that_is_wrong_or_missing_gets_one_line_with_the_way_to_help(command, arguments):
    assert_refused(command(*arguments), "; see '", "--help'")


# ---- bad files ----


@pytest.mark.parametrize(("case", "fault"), [("text", "MIDI"), ("silent", "no notes"), ("missing", "cannot be read")])
def test_a_file_that_cannot_be_continued_is_named_with_its_fault(command, model, tmp_path, case, fault):
    path = tmp_path / f"{case}.mid"
    if case == "text":
        path.write_text("dear diary, " * 20)
    elif case == "silent":
        Piece.from_notes([], pedals=[(0, 1)]).write(path)
    outcome = command("continue", path, tmp_path / "out.mid", "--model", model)
    assert_refused(outcome, path, fault)
    assert re.search(r"; (get|give|check|name) ", outcome.err), f"no remedy: {outcome.err}"
    assert not (tmp_path / "out.mid").exists()


def damage_weights(folder: Path) -> None:
    (path,) = folder.glob("weights-*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def change(**entries: Any) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        manifest = json.loads((folder / "checkpoint.json").read_text())
        for name, value in entries.items():
            manifest[name] = manifest[name] | value if isinstance(value, dict) else value
        (folder / "checkpoint.json").write_text(json.dumps(with_checksum(manifest)))

    return rewrite


BAD_MODELS = {
    "weights cut short": (damage_weights, "cut short"),
    "other vocabulary": (change(vocabulary="0123456789abcdef"), "another vocabulary"),
    "more layers": (change(config={"schedule": "4x8"}), "of another model"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_is_damaged_or_another_is_named_with_its_fault(command, copied_model, corpus, tmp_path, case):
    damage, fault = BAD_MODELS[case]
    damage(copied_model)
    out = tmp_path / "out.mid"
    assert_refused(command("generate", out, "--model", copied_model), copied_model, fault)
    assert_refused(command("evaluate", copied_model, "--data", corpus), copied_model, fault)
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "fault"),
    [({"family": "tuba"}, "'tuba'"), ({"config": {"valves": 3}}, "valves")],
    ids=["family", "config"],
)
def test_a_model_of_a_kind_not_known_here_gets_one_line(command, copied_model, corpus, tmp_path, changed, fault):
    change(**changed)(copied_model)
    assert_refused(command("generate", tmp_path / "out.mid", "--model", copied_model), fault)
    assert_refused(command("evaluate", copied_model, "--data", corpus), fault)


def test_weights_that_are_no_numbers_get_one_line_instead_of_endless_silence(command, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    save_model(model, tmp_path / "model")
    assert_refused(command("generate", tmp_path / "out.mid", "--model", tmp_path / "model"), "damaged")
    assert not (tmp_path / "out.mid").exists()
