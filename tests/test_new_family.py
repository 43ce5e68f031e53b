"""A new family is one file, here ``support/families/gru.py``: nothing in the package knows of it.

It is found by its name, obeys the law, and every verb does what it can with it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, assert_refused
from law import CLAIMS, GRADIENT_CLAIMS, Claim, Subject
from short_runs import assert_same_run, equal, stopping_at
from tiny import made_up_tokens, save_model, write_corpus

from ritornello import codec, models
from ritornello.bench import generation
from ritornello.checkpoint import load_checkpoint
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models import build, from_checkpoint
from ritornello.models.config import at_place, family_named, read_config
from ritornello.training import display
from ritornello.training.recipes import RECIPES, Recipe, recipe_named

# ---- the family ----


models.__path__.append(str(Path(__file__).parent / "support/families"))
GRUConfig = family_named("gru")
GRU = at_place(GRUConfig.model)
OWN = recipe_named("gru")


def recipe() -> Recipe:
    small = {"lanes": 2, "interleave": 2, "steps": 12, "warmup_steps": 2, "validate_every_steps": 1}
    return OWN.with_settings({**small, "augmentation": {"semitones": 0, "stretch": 0.0}, "model.motif_notes": 32})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "gru", recipe)


def test_a_recipe_of_its_name_is_there() -> None:
    assert (OWN.name, OWN.model, OWN.lanes) == ("gru", GRUConfig(), RECIPES["small"]().lanes)


# ---- the law ----


def awake(config: Any, *, dtype: torch.dtype = torch.float64) -> Any:
    with torch.random.fork_rng():
        model = GRU(config).to(dtype)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=1 if name.startswith("embedding") else weight.shape[-1] ** -0.5, generator=rng)
    return model.eval()


def subject() -> Subject:
    config = GRUConfig(layers=2, width=12, segment_tokens=6)
    model = awake(config)
    bytes_per_lane = 2 * 12 * 8
    return Subject(
        model=model,
        schedule=HorizonSchedule.unlimited(layers=2),
        reading_tokens=4 * 6 + 3,
        tolerance=1e-12,
        far_tolerance=1e-12,
        declared_bytes=lambda tokens: bytes_per_lane,
        full_bytes=bytes_per_lane,
        first_reached=lambda position: 0,
        attached=functools.partial(model.forward, detach=False),
    )


@pytest.mark.parametrize("claim", [*CLAIMS, *GRADIENT_CLAIMS], ids=lambda claim: claim.__name__)
def test_it_obeys(claim: Claim) -> None:
    claim(subject(), torch.Generator().manual_seed(20_260_219))


# ---- the command line ----


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """The folder of a model of some sizes."""

    def folder(config: Any) -> Path:
        return save_model(awake(config, dtype=torch.float32), tmp_path_factory.mktemp("gru") / "model")

    return folder


def test_it_trains_and_a_resumed_run_is_an_uninterrupted_one(
    command: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--data", corpus, "--recipe", "gru", "--seed", 4, "--device", "cpu")
    assert math.isfinite(
        command("train", *options, "--out", tmp_path / "whole", "--json").figures["best_validation_nats_per_token"]
    )

    @contextmanager
    def stopped(_: Any) -> Iterator[Any]:
        yield stopping_at(5)

    with monkeypatch.context() as patched:
        patched.setattr(display, "watch", stopped)
        assert command("train", *options, "--out", tmp_path / "resumed").code == 0
    assert load_checkpoint(tmp_path / "resumed" / "last").run["step"] == 5
    assert command("train", *options, "--out", tmp_path / "resumed", "--resume").code == 0
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    begun = from_checkpoint(load_checkpoint(tmp_path / "whole" / "best"))
    assert begun.config == recipe().model
    tensors = load_checkpoint(tmp_path / "whole" / "last").tensors("training")
    states = {name for name in tensors if name.startswith("state/")}
    groups = [f"state/{name}{group}" for name in ("hidden/0", "hidden/1", "position") for group in ("", "/group 1")]
    assert states == set(groups)
    assert {name.split("/")[2] for name in tensors if name.startswith("optimiser/muon/")} == {
        f"cells.{layer}.weight_{part}" for layer in range(2) for part in ("ih", "hh")
    }


def test_it_is_fine_tuned(command: Run, saved: Callable[[Any], Path], corpus: Path, tmp_path: Path) -> None:
    folder = saved(GRUConfig(motif_notes=32))
    options = ("--data", corpus, "--init", folder, "--steps", 1, "--device", "cpu")
    assert command("train", *options, "--out", tmp_path / "run", "--recipe", "gru").code == 0
    assert not equal(load_checkpoint(folder).tensors(), load_checkpoint(tmp_path / "run" / "last").tensors())
    other = command("train", *options, "--out", tmp_path / "other", "--recipe", "tiny")
    assert_refused(other, folder, "family gru")


def test_it_is_evaluated_by_itself_and_as_it_plays(command: Run, saved: Callable[[Any], Path], tmp_path: Path):
    folder = saved(GRUConfig(motif_notes=32))
    corpus = write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(3, 230, 7)}).path
    whole = command("evaluate", folder, "--data", corpus, "--repeats", "--json").figures
    assert whole["schedule"] is None
    assert whole["memory"] == "2 hidden states of 16, motif memory of 32 strikes"
    assert whole["repeats"][0]["gap_tokens"] == 0
    played = command("evaluate", folder, "--data", corpus, "--engine", "torch", "--json").figures
    assert played["nats_per_token"] == pytest.approx(whole["nats_per_token"], abs=1e-5)


def test_it_plays_a_piece_for_a_seed_and_goes_on_from_it(
    command: Run, saved: Callable[[Any], Path], tmp_path: Path
) -> None:
    options = ("--model", saved(GRUConfig(motif_notes=32)), "--engine", "torch", "--seed", 3)
    one, other = tmp_path / "one.mid", tmp_path / "other.mid"
    for path in (one, other):
        assert command("generate", path, "--minutes", 0.1, *options).code == 0
    assert one.read_bytes() == other.read_bytes()
    assert command("continue", one, tmp_path / "on.mid", "--minutes", 0.1, *options).code == 0


def test_its_session_is_its_forward_in_fixed_memory_at_any_position() -> None:
    config = GRUConfig(motif_notes=32)
    model, text = awake(config, dtype=torch.float32), made_up_tokens(1, 40)[0].astype(np.int64)
    rows = codec.with_hints(text, codec.MotifMemory(32).read(text))
    with torch.no_grad():
        expected = model(torch.from_numpy(rows)[None], model.initial_state(1))[0][0].numpy()
    for begun in (0, 1_000_003):
        session, read = TorchEngine(model).begin(begun), []
        assert session.nbytes == config.state_bytes
        for part in np.split(text, (1, 2, 20, 60)):
            read.append(session.score(part))
        np.testing.assert_allclose(np.concatenate(read), expected, atol=1e-4)
        assert session.position == begun + len(text)
        assert session.nbytes == config.state_bytes


def test_its_bytes_are_told_and_what_it_cannot_do_is_one_line(
    command: Run, saved: Callable[[Any], Path], corpus: Path, tmp_path: Path
) -> None:
    folder = saved(GRUConfig())
    told = command("info", folder, "--json").figures
    assert (told["family"], told["layers"], told["state_bytes"]) == ("gru", 2, 4 * 2 * 16)
    assert "no ONNX graph of the family gru" in told["small_engine"]
    assert_refused(command("export", folder, tmp_path / "out"), folder, "no ONNX graph of the family gru")
    assert_refused(command("generate", tmp_path / "x.mid", "--model", folder), folder, "--engine torch")
    assert_refused(
        command("evaluate", folder, "--data", corpus, "--schedule", "uniform(0)"), folder, "without horizons"
    )
    options = ("--data", corpus, "--out", tmp_path / "run", "--recipe", "gru")
    assert_refused(command("train", *options, "--schedule", "uniform(0)"), "gru", "without horizons")
    with pytest.raises(RitornelloError, match=r"horizon_warmup_share is 0\.5; for a model without horizons it is 0"):
        replace(recipe(), horizon_warmup_share=0.5)


def test_its_speed_is_measured(command: Run, saved: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a fresh one knows nothing of this file."""

    def here(arguments: list[str]) -> dict[str, Any]:
        job = json.loads(arguments[-1])
        if "setting" not in job:
            return {"bandwidth_bytes_per_s": 1e9}
        return generation._measured(generation.Setting(**job["setting"]), job["started"])

    monkeypatch.setattr(generation, "in_fresh_process", here)
    options = ("--engine", "torch", "--tokens", 20, "--position", 100, "--json")
    (row,) = command("bench", "generate", "--model", saved(GRUConfig()), *options).figures["engines"]
    assert row["state_bytes"] == 4 * 2 * 16
    assert row["weight_bytes"] == 4 * (2 * 2 * 3 * 16 * 16 + 16 * codec.N_EVENTS)


def test_its_json_may_lack_nothing_but_what_came_later() -> None:
    config = GRUConfig(layers=3).to_json()
    assert read_config("gru", config) == GRUConfig(layers=3)
    assert build(GRUConfig()).config == GRUConfig()
    for wrong, words in (({**config, "depth": 3}, "an unknown depth"), ({"layers": 3}, "no motif_notes, no segment")):
        with pytest.raises(RitornelloError, match=f"does not fit the family gru: it has {words}"):
            read_config("gru", wrong)
