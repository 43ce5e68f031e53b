"""The training study: rows of as many tokens that change one thing each, its runs and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from command import Run
from short_studies import assert_drawn, conditions, play_briefly, rows_of, table_below
from tiny import made_up_tokens, tiny_config, write_corpus

from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models import build
from ritornello.studies import measure, report
from ritornello.studies.declared.choices import UNCHANGED
from ritornello.studies.record import Conditions, Record, read_records, record_path, training_path
from ritornello.studies.study import steps_of, study_named
from ritornello.training import recipes
from ritornello.training.recipes import Recipe

STEPS = 800


def rows() -> dict[str, Recipe]:
    return rows_of("training")


def changes(recipe: Recipe, other: Recipe) -> set[str]:
    """Names of what differs; sizes of the model by their own names."""
    found = {f.name for f in fields(Recipe) if f.name != "model" and getattr(recipe, f.name) != getattr(other, f.name)}
    ours, theirs = recipe.model.to_json(), other.model.to_json()
    return found | {name for name in ours if ours[name] != theirs[name]}


def test_every_row_changes_one_thing() -> None:
    unchanged, *others = rows().values()
    streams, shapes = {"lanes", "interleave", "segment_tokens"}, {"schedule", "width", "heads", "mlp_width"}
    for recipe in others:
        found = changes(recipe, unchanged)
        adam = {"optimiser", "matrix_lr", "weight_decay"}
        assert len(found) == 1 or found <= streams or found in (shapes, adam), recipe
    assert len({json.dumps(recipe.settings()) for recipe in rows().values()}) == len(others) + 1


def test_rows_of_recall_differ_in_what_a_model_remembers_by_alone() -> None:
    of_recall = rows_of("recall")
    unchanged = of_recall.pop(UNCHANGED)
    assert not unchanged.streaming.qk_bias
    found = {name: changes(recipe, unchanged) for name, recipe in of_recall.items()}
    assert found == {
        "biases": {"qk_bias"},
        "biases, motif memory": {"qk_bias", "motif_notes"},
        "biases, motif memory of 1,024 strikes": {"qk_bias", "motif_notes"},
    }
    assert len({json.dumps(recipe.settings()) for recipe in of_recall.values()}) == len(of_recall)


def test_rows_read_as_many_tokens() -> None:
    asked = conditions("training", steps=STEPS)
    steps = {name: steps_of(asked, recipe) for name, recipe in rows().items()}
    few, many = steps["4 x 16 lanes of 128"], steps["4 x 4 lanes of 128"]
    assert (steps[UNCHANGED], steps["1 x 4 lanes of 256"], few, many) == (800, 800, 400, 1600)
    assert {steps[name] * recipe.step_tokens for name, recipe in rows().items()} == {STEPS * 4 * 256}


def test_other_shapes_have_as_many_weights_and_as_long_memories() -> None:
    unchanged, *others = [recipe.streaming for recipe in rows().values()]
    shapes = [model for model in others if model.schedule.layers != unchanged.schedule.layers]
    assert [(model.schedule.layers, model.width) for model in shapes] == [(16, 64), (4, 128)]
    weights = [sum(p.numel() for p in build(m).blocks.parameters()) for m in shapes]
    assert weights == pytest.approx([885_000] * 2, rel=0.01)
    assert {model.schedule.budget_tokens for model in shapes} == {unchanged.schedule.budget_tokens}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    pieces = {"train": made_up_tokens(0, 60, 80, 70, 90), "validation": made_up_tokens(1, 50, 300)}
    return write_corpus(tmp_path_factory.mktemp("study") / "corpus", pieces)


@pytest.fixture(scope="module")
def mini(corpus: Corpus) -> Iterator[Conditions]:
    """A recipe whose rows are of tiny models, and its study of eight steps."""
    model = tiny_config(schedule=HorizonSchedule((24, 8)), segment_tokens=32)
    recipe = replace(recipes.tiny(), name="mini", model=model, lanes=2, validate_every_steps=4, validation_pieces=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(recipes.RECIPES, "mini", lambda: recipe)
        play_briefly(patched)
        yield conditions("training", corpus, recipe="mini", steps=8, budget_tokens=32, pieces=9)


RUN = (UNCHANGED, "trained without the grammar", "4 x 8 lanes of 16")


@pytest.fixture(scope="module")
def trained(corpus: Corpus, mini: Conditions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    for row in RUN:
        assert measure.measure_run(corpus, out, mini, row, 0, torch.device("cpu"))
    return out


def test_a_run_is_read_under_the_grammar_whatever_it_was_trained_under(trained: Path) -> None:
    found = {row: json.loads(record_path(trained, row, 0).read_text()) for row in RUN}
    assert {result["evaluation"]["kind"] for result in found.values()} == {"legal"}
    assert [result["recipe"]["legal"] for result in found.values()] == [True, False, True]
    free = load_checkpoint(training_path(trained, RUN[1], 0) / "best").run
    assert free["legal"] is False
    assert free["best"] > 0.5 + found[RUN[1]]["evaluation"]["nats_per_token"]  # of all events, and few are legal


def markdown(runs: list[Record]) -> str:
    return report.markdown(study_named("training"), runs)


def test_what_unchanged_is_comes_from_its_run(trained: Path) -> None:
    runs = read_records(trained, "training")
    line = next(line for line in markdown(runs).splitlines() if line.startswith("- Unchanged"))
    changed = line.split(" with ")[1].split(". ")[0]
    assert changed == "interleave = 4, lanes = 4, segment_tokens = 16"  # of the recipe's 1, 2 and 32
    assert "- Unchanged" not in markdown([run for run in runs if run.row != UNCHANGED])


def test_fewer_steps_are_not_an_interrupted_run(trained: Path) -> None:
    last = load_checkpoint(training_path(trained, RUN[2], 0) / "last").run
    assert last["step"] == 8 * (2 * 32) // (8 * 16)


def test_a_run_tells_nothing_of_memory_that_no_one_asked_for(trained: Path) -> None:
    result = json.loads(record_path(trained, UNCHANGED, 0).read_text())
    assert (result["cuts"], result.get("playing")) == ([], None)


def test_crops_take_no_turns_and_remember_nothing_that_could_grow() -> None:
    with pytest.raises(RitornelloError, match="interleave is 2; for a model that is trained on crops it is 1"):
        replace(recipes.perceivers_tiny(), interleave=2)
    with pytest.raises(RitornelloError, match=r"horizon_warmup_share is 0\.5"):
        replace(recipes.perceivers_tiny(), horizon_warmup_share=0.5)
    with pytest.raises(RitornelloError, match="balance_titles is True"):
        replace(recipes.perceivers_tiny(), balance_titles=True)


# The report.


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """Two rows with likelihoods that are known: a quarter of a nat behind, with both seeds."""
    run = next(run for run in read_records(trained, "training") if run.row == UNCHANGED)
    for row, more, tokens_per_s in ((UNCHANGED, 0.0, 1000.0), ("AdamW for all, 0.003", 0.25, 1250.0)):
        for seed in (0, 1):
            nats = 2.0 + more + seed / 8
            replace(
                run,
                row=row,
                seed=seed,
                by_piece=tuple(replace(piece, nats=nats * piece.tokens) for piece in run.by_piece),
                evaluation=replace(run.evaluation, nats_per_token=nats),
                training=replace(run.training, tokens_per_s=tokens_per_s),
            ).write(tmp_path / "finished")
    return tmp_path / "finished"


def test_the_table_puts_the_best_first_and_says_how_far_the_others_are_behind(study: Run, finished: Path) -> None:
    outcome = study("table", "training", "--out", finished)
    assert outcome.code == 0, outcome.err
    table = table_below(outcome.out, "## What each choice is worth")
    assert list(table) == [UNCHANGED, "AdamW for all, 0.003"]
    behind, by_seed, nats, speed, _ = table["AdamW for all, 0.003"]
    assert table[UNCHANGED][:4] == ["", "", "2.0625 ± 0.0884", "1.00"]
    assert (behind, by_seed) == ("+0.2500 [+0.2500, +0.2500]", "+0.2500, +0.2500")
    assert (nats, speed) == ("2.3125 ± 0.0884", "1.25")
    assert "under the grammar (legal)" in outcome.out


def test_the_table_and_the_curves_are_drawn(study: Run, finished: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "table.png", tmp_path / "curves.png"
    outcome = study("table", "training", "--out", finished, "--png", pictures[0], "--curves", pictures[1], "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)["rows"]
    assert [row["row"] for row in found] == [UNCHANGED, "AdamW for all, 0.003"]
    assert found[1]["behind_unchanged"]["mean"] == pytest.approx(0.25)
    assert found[1]["tokens_per_s_ratio"] == 1.25
    for picture in pictures:
        assert_drawn(picture)


def test_without_the_unchanged_recipe_nothing_is_measured_against_it(trained: Path) -> None:
    alone = [run for run in read_records(trained, "training") if run.row == RUN[1]]
    behind, by_seed, _, speed, _ = table_below(markdown(alone), "## What each choice is worth")[RUN[1]]
    assert (behind, by_seed, speed) == ("", "", "")


def test_the_grammar_is_the_study_s_own_choice(study: Run, corpus: Corpus, tmp_path: Path) -> None:
    """The command trains under it unless told otherwise; the papers' studies do not."""
    options = ("--data", corpus.path, "--recipe", "tiny", "--steps", 1, "--seeds", 1, "--row", UNCHANGED)
    for name, more, legal in (("training", (), True), ("training", ("--free",), False)):
        out = tmp_path / f"{name}{legal}"
        outcome = study("run", name, "--out", out, *options, *more)
        assert outcome.code == 0, outcome.err
        result = json.loads(record_path(out, UNCHANGED, 0).read_text())
        assert result["settings"]["legal"] is legal
        assert result["recipe"]["legal"] is legal
