"""Memories that would not fit a machine are refused before training; what the documents tell to run fits 80 GB."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from short_studies import conditions, rows_of
from tiny import SEGMENT_TOKENS, random_model, tiny_config

from ritornello.errors import RitornelloError
from ritornello.horizons import MAX_HORIZON_TOKENS, HorizonSchedule
from ritornello.models.dsmr import DSMRConfig
from ritornello.models.protocol import nbytes
from ritornello.studies.record import Conditions
from ritornello.studies.study import recipes_of, studies
from ritornello.training import fitting
from ritornello.training.fitting import Memories, Precision, memories_of
from ritornello.training.recipes import RECIPES, Recipe, recipe_named

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROOT = Path(__file__).parents[1]


def memories(*horizons: int | None, width: int = 32, lanes: int = 4, piece_tokens: int = 1000, **more: Any) -> Memories:
    model = tiny_config(schedule=HorizonSchedule(horizons), width=width)
    return Memories(model, lanes=lanes, piece_tokens=piece_tokens, **{"device": CPU} | more)


def test_an_unlimited_layer_counts_as_the_longest_piece() -> None:
    # (1,008 + 200) tokens, for segments are of 16; a key and a value of 32 numbers of 4 bytes each, in 4 lanes, before
    # and after a step.
    needed = (1008 + 200) * (32 + 32) * 4 * 4 * 2
    found = memories(None, 200)
    found.check_fit(needed)
    with pytest.raises(RitornelloError) as refused:
        found.check_fit(needed - 1)
    message = str(refused.value)
    assert "unlimited, 200" in message
    assert "2.5 MB in fp32" in message  # 2,473,984 bytes
    assert "1,000 tokens in 4 lanes" in message
    assert "\n" not in message


def test_groups_of_lanes_rest_with_their_memories() -> None:
    # Three groups: those of two rest, and of the third there is what was before a step and what is after it.
    found = memories(992, 200, interleave=3)
    assert found.nbytes == (992 + 200) * (32 + 32) * 4 * 4 * (2 + 2)
    with pytest.raises(RitornelloError, match="12 lanes"):
        found.check_fit(found.nbytes - 1)


def test_where_memory_and_segment_are_joined_there_is_a_third_copy_and_half_precision_is_half() -> None:
    lane = (1008 + 200) * (32 + 32)
    assert memories(None, 200, precision="bf16").nbytes == lane * 2 * 4 * 2
    assert memories(None, 200, device=CUDA).nbytes == lane * 4 * 4 * 3
    assert memories(None, 200, device=CUDA, precision="bf16").nbytes == lane * 2 * 4 * 3


def test_a_validation_reads_eight_lanes_while_all_groups_rest() -> None:
    found = memories(None, 0, lanes=1, interleave=3, validation_tokens=512)
    assert found.nbytes == (3 * 1008 + 2 * 8 * 512) * (32 + 32) * 4
    assert memories(None, 0, lanes=8, interleave=3, validation_tokens=16).nbytes == (3 + 1) * 8 * 1008 * (32 + 32) * 4


@pytest.mark.parametrize("precision", get_args(Precision))
def test_what_is_counted_is_what_a_model_holds(precision: Precision) -> None:
    """At the end of a piece, which is no whole number of segments."""
    lanes, pieces = 2, 5 * SEGMENT_TOKENS
    model = random_model(0, schedule=HorizonSchedule((None, 3 * SEGMENT_TOKENS)))
    state = model.initial_state(lanes)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(pieces // SEGMENT_TOKENS):
            _, state = model(torch.zeros(lanes, SEGMENT_TOKENS, dtype=torch.int64), state)
    found = Memories(model.config, lanes, pieces - 5, CPU, precision=precision)
    assert found.state_bytes(lanes, pieces - 5) == nbytes(state)


def test_of_runs_side_by_side_the_largest_may_meet() -> None:
    needed = [300_000, 5_000_000, 100, 2_000_000]
    fitting.check_fit_at_once(needed, 2, 7_000_000)
    with pytest.raises(RitornelloError, match=r"jobs is 2: .* up to 7\.0 MB, 7\.0 MB are free") as refused:
        fitting.check_fit_at_once(needed, 2, 6_999_999)
    assert "\n" not in str(refused.value)
    fitting.check_fit_at_once(needed[:1], 2, 6_999_999)
    fitting.check_fit_at_once([], 2, 0)
    fitting.check_fit_at_once(needed, 2, None)


def test_no_horizon_costs_more_than_the_longest_piece() -> None:
    assert memories(MAX_HORIZON_TOKENS, MAX_HORIZON_TOKENS).nbytes == 2 * 1008 * 64 * 4 * 4 * 2


@pytest.mark.parametrize(
    ("width", "lanes", "needed"), [(1 << 16, 1024, "1,082.3 GB"), (1 << 10, 64, "1.1 GB"), (4, 1, "64.5 kB")]
)
def test_the_bytes_are_said_in_a_unit_that_shows_them(width: int, lanes: int, needed: str) -> None:
    with pytest.raises(RitornelloError, match=f"would take {needed} .* 0.5 kB are free"):
        memories(None, 0, width=width, lanes=lanes).check_fit(500)


def test_a_system_that_does_not_say_what_is_free_refuses_nothing() -> None:
    memories(None, None, piece_tokens=10**12).check_fit(None)


def test_this_machine_says_what_is_free() -> None:
    found = fitting.free_bytes(CPU)
    assert found is None or 2**20 < found < 2**60


# What the documents tell to run, on a GPU of 80 GB.

FREE = 80 * 10**9
LONGEST = {"train": 65_931, "validation": 34_563}  # of ASAP, in tokens


def test_a_recipe_is_made_to_fit_few_pieces_and_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_named("small")  # four groups of 16 lanes
    few, many = (
        SimpleNamespace(pieces=lambda split, count=count: [SimpleNamespace(tokens=1000)] * count) for count in (9, 100)
    )
    monkeypatch.setattr(fitting, "free_bytes", lambda _: None)
    fitted = [fitting.fitting(recipe, recipe.model, pieces, CPU) for pieces in (few, many)]  # type: ignore[arg-type]
    assert [(one.interleave, one.lanes) for one in fitted] == [(1, 8), (4, 16)]
    # A validation has the resting lanes, and eight of its own before and after a segment.
    lane = recipe.model.lane_bytes(1000, bytes_per_number=4)
    monkeypatch.setattr(fitting, "free_bytes", lambda _: 2 * (4 + 2 * 8) * lane)
    assert fitting.fitting(recipe, recipe.model, few, CPU).lanes == 4  # type: ignore[arg-type]
    monkeypatch.setattr(fitting, "free_bytes", lambda _: 0)
    assert fitting.fitting(recipe, recipe.model, few, CPU).lanes == 1  # type: ignore[arg-type]


def corpus() -> Any:
    return SimpleNamespace(pieces=lambda split: [SimpleNamespace(tokens=LONGEST[split])])


def check_fit(recipe: Recipe, precision: str = "bf16") -> None:
    if isinstance(recipe.model, DSMRConfig):
        found = memories_of(recipe.model, recipe, corpus(), device=CUDA, precision=precision)  # type: ignore[arg-type]
        found.check_fit(FREE)


def documented(verb: str) -> list[str]:
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    lines = [line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith(f"ritornello {verb} ")]


def options_of(line: str) -> tuple[list[str], dict[str, str]]:
    """A command's arguments, and the values of its options."""
    words, values = shlex.split(line, comments=True), {}
    while (at := next((i for i, word in enumerate(words) if word.startswith("--")), None)) is not None:
        valued = at + 1 < len(words) and not words[at + 1].startswith("--")
        values[words[at]] = words[at + 1] if valued else ""
        del words[at : at + 1 + valued]
    return words, values


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_fits(name: str) -> None:
    check_fit(recipe_named(name))


@pytest.mark.parametrize("name", studies())
def test_every_study_fits(name: str) -> None:
    for recipe in rows_of(name).values():
        check_fit(recipe, "fp32")


@pytest.mark.parametrize("line", documented("train"))
def test_every_documented_training_fits(line: str) -> None:
    _, options = options_of(line)
    recipe = recipe_named(options.get("--recipe", "small")).changed(schedule=options.get("--schedule"))
    check_fit(recipe, options.get("--precision", "bf16"))


def conditions_of(line: str) -> Conditions:
    words, options = options_of(line)
    lanes = int(options["--lanes"]) if "--lanes" in options else None
    return conditions(words[3], recipe=options.get("--recipe"), lanes=lanes)


@pytest.mark.parametrize("line", documented("study run"))
def test_every_documented_study_fits(line: str) -> None:
    for recipe in recipes_of(conditions_of(line)).values():
        check_fit(recipe)


def test_the_documents_have_a_study_of_each_kind_at_a_gpu_s_size() -> None:
    found = {(settings.study, settings.recipe) for settings in map(conditions_of, documented("study run"))}
    sizes = [("dsmr", "study"), ("dsmr", "base"), ("perceivers", "perceivers_study"), ("training", "study")]
    assert found >= {*sizes, ("perceivers", "perceivers_paper")}


def test_full_memory_in_as_many_lanes_as_the_recipe_s_does_not_fit() -> None:
    """But a quarter of the lanes does, or a quarter of the pieces."""
    asked: dict[str, Any] = {"recipe": "base", "budget_tokens": 12_288}
    with pytest.raises(RitornelloError, match=r"194\.8 GB in bf16 .* 64 lanes"):
        check_fit(rows_of(**asked)["full memory"])
    check_fit(rows_of(**asked, lanes=16)["full memory"])
    check_fit(rows_of(**asked, piece_tokens=16_384)["full memory"])
