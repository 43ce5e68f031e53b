"""What a study's runs come to: means, differences with their errors, and the report beside the paper's figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Run, assert_refused
from short_studies import assert_drawn, record, table_below

from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models.config import DSMRConfig
from ritornello.recall import Recall
from ritornello.studies import report
from ritornello.studies.record import Bin, Machine, PieceNats, Record, read_records, record_path, to_json
from ritornello.studies.report import Row, over_seeds
from ritornello.studies.study import study_named

STUDIES = Path(__file__).parents[1] / "docs/studies"

SCHEDULES = {"full memory": "4xunlimited", "two-scale": "1024, 3x256", "binary, low layers": "2x896, 2x0"}
DSMR = study_named("dsmr")
markdown = partial(report.markdown, DSMR)


def result(row: str, seed: int = 0, *, nats: tuple[float, ...] = (200.0, 600.0), **changes: Any) -> Record:
    """Two pieces, of 100 and 300 tokens."""
    schedule = HorizonSchedule.parse(SCHEDULES.get(row, "2x0, 2x896"))
    model = DSMRConfig(schedule, width=64, heads=2, segment_tokens=256)
    return record(row, seed, nats=nats, tokens=(100, 300), model=model, **changes)


def row_named(runs: list[Record], name: str) -> Row:
    row = report.row_named(report.rows_of(DSMR, runs), name)
    assert row is not None
    return row


def test_mean_and_spread_over_seeds() -> None:
    assert over_seeds([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt(13)))  # (9 + 1 + 16) / 2
    assert over_seeds([7.0]) == (7.0, None)


def test_the_error_of_a_difference_is_that_of_paired_pieces() -> None:
    runs = [result("full memory"), result("two-scale", nats=(210.0, 660.0))]
    full, two = row_named(runs, "full memory"), row_named(runs, "two-scale")
    # Differences 10 and 60 nats, 70 in 400 tokens; residuals 10 - 17.5 and 60 - 52.5; sqrt(2 / 1 x 112.5) / 400.
    assert two.nats_above(full) == (pytest.approx(0.175), pytest.approx(0.0375))
    assert full.nats_above(two) == (pytest.approx(-0.175), pytest.approx(0.0375))
    assert full.nats_above(full) is None


def test_differences_are_paired_by_seed_and_averaged_before_pieces_are_compared() -> None:
    runs = [
        result("full memory", 0),
        result("full memory", 1, nats=(300.0, 900.0)),
        result("full memory", 2, nats=(1.0, 1.0)),
        result("two-scale", 1, nats=(310.0, 1020.0)),  # 10 and 120 more
        result("two-scale", 0, nats=(210.0, 600.0)),  # 10 and 0 more: 10 and 60 in the mean
    ]
    full, two = row_named(runs, "full memory"), row_named(runs, "two-scale")
    assert two.nats_above(full) == (pytest.approx(0.175), pytest.approx(0.0375))
    assert Row("two-scale", two.runs[:1]).nats_above(Row("full memory", full.runs[1:])) is None


def test_the_standard_error_is_the_jackknife_s_where_pieces_are_of_one_length() -> None:
    """Another way to the same figure: leave one piece out at a time."""
    rng = np.random.default_rng(3)
    ours, theirs = rng.uniform(1, 3, (2, 12)) * 50
    pieces = [tuple(PieceNats(nats=float(n), tokens=50) for n in nats) for nats in (ours, theirs)]
    two, full = (Row("a row", [replace(result("two-scale"), by_piece=of_run)]) for of_run in pieces)
    left_out = [(np.delete(ours - theirs, i) / 50).mean() for i in range(12)]
    error = math.sqrt(11 / 12 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert two.nats_above(full) == (pytest.approx(np.mean(ours - theirs) / 50), pytest.approx(error))


def test_ratios_are_to_full_memory_beside_the_paper_s() -> None:
    two_scale = result("two-scale", nats=(220.0, 600.0), training={"tokens_per_s": 1500.0, "peak_bytes": 30_000_000})
    _, figures = report.figures(DSMR, [result("full memory"), two_scale])
    assert figures["ratios"] == {
        "perplexity": pytest.approx(math.exp(0.05)),
        "tokens_per_s": 1.5,
        "peak_bytes": 0.5,  # 20 of 40 MB beyond the idle process
        "state_bytes": pytest.approx(1792 / 65536),
    }
    assert figures["paper_ratios"] == {
        "perplexity": pytest.approx(5.96 / 5.98),
        "tokens_per_s": pytest.approx(10339 / 7618),
        "peak_bytes": pytest.approx(6.3 / 15.5),
    }
    assert figures["state_bytes"] == 1792 * 2 * 64 * 4
    half = replace(two_scale, settings=replace(two_scale.settings, precision="bf16"))
    assert Row("two-scale", [half]).state_bytes == 1792 * 2 * 64 * 2
    assert json.loads(json.dumps(figures)) == figures


def test_what_could_not_be_measured_is_left_out() -> None:
    unknown = {"tokens_per_s": None, "peak_bytes": 10_000_000}
    runs = [result("full memory", training=unknown), result("two-scale")]
    _, figures = report.figures(DSMR, runs)
    assert figures["ratios"]["tokens_per_s"] is None
    assert figures["ratios"]["peak_bytes"] is None
    assert "nan" not in markdown(runs)


# The table.


def test_the_table_has_our_figures_beside_the_paper_s() -> None:
    two_scale = result("two-scale", nats=(210.0, 660.0), training={"tokens_per_s": 1500.0, "peak_bytes": 30_000_000})
    table = table_below(markdown([two_scale, result("full memory", 0), result("full memory", 1)]), "## Perplexity")
    assert list(table) == ["full memory", "two-scale"]
    # e^2 = 7.389 and e^0.175 = 1.191; 5.96 / 5.98 = 0.997, 10,339 / 7,618 = 1.36, 6.3 / 15.5 = 0.41; 1,792 / 65,536.
    assert table["full memory"] == [
        *("1.000", "1.000", "1.00", "1.00", "1.00", "1.00", "1.000"),
        *("7.389 ± 0.000", "5.98", "", "`4xunlimited`"),
    ]
    assert table["two-scale"] == [
        *("1.191", "0.997", "1.50", "1.36", "0.50", "0.41", "0.027"),
        *("8.802", "5.96", "+0.1750 ± 0.0375", "`1024, 3x256`"),
    ]


def test_the_report_says_what_was_equal_and_what_was_not() -> None:
    slow = replace(result("two-scale"), machine=Machine(device="a slide rule", threads=1, torch="2.9"))
    text = markdown([slow, result("full memory", 0), result("full memory", 1)])
    for words in (
        "Etudes; 123,456 tokens",
        "0.25 M parameters in 4 layers of width 64",
        "60 steps of the recipe study (4 lanes), 61,440 tokens, in fp32, over all events",
        "2 whole validation pieces (400 tokens)",
        "Budget of the limited rows: 1,792 tokens",
        "Seeds: 0, 1; two-scale only 0.",
        "Not equal, machine: a slide rule, threads: 1, torch 2.9; an abacus, threads: 2, torch 2.9;",
        "its data are MAESTRO",
    ):
        assert words in text
    alike = [result("full memory"), result("two-scale")]
    assert "Not equal, machine" not in markdown(alike)
    text = markdown([result(run.row, settings={"precision": "bf16"}) for run in alike])
    assert "tokens, in bf16" in text
    on_maestro = [replace(run, settings=replace(run.settings, corpus="MAESTRO v3.0.0")) for run in alike]
    text = markdown(on_maestro)
    assert "Equal, data: MAESTRO v3.0.0; 123,456 tokens" in text
    assert "Not equal to the paper: its model, training and GPU are its own." in text


def test_groups_and_memories_that_grow_are_said() -> None:
    plain = result("full memory", recipe={"interleave": 3})
    text = markdown([plain, result("full memory, growing", recipe={"horizon_warmup_share": 0.25})])
    assert "(3 groups of 4 lanes that take turns)" in text
    assert "in the first 25% of training no layer sees more of its memory" in text
    assert "Growing" not in markdown([plain])


def test_layers_that_stand_in_for_each_other_are_side_by_side() -> None:
    low = result("binary, low layers", nats=(210.0, 660.0))
    text = markdown([result("full memory"), low, result("binary, high layers"), result("binary, sliding")])
    table = table_below(text, "## Can one layer")
    assert list(table) == ["binary, high layers", "binary, low layers"]
    assert table["binary, low layers"] == ["1, 2", "1,792", "8.802", "+0.1750 ± 0.0375"]
    assert table["binary, high layers"] == ["3, 4", "1,792", "7.389", ""]
    assert "0.1750 nats/token behind the best, 4.7 times the standard error" in text
    assert "with 1 of 1 seed" in text
    assert "## Can one layer" not in markdown([result("full memory"), low])


def test_without_full_memory_there_are_no_ratios_but_the_paper_s() -> None:
    text = markdown([result("two-scale")])
    assert table_below(text, "## Perplexity")["two-scale"][:8] == ["", "0.997", "", "1.36", "", "0.41", "", "7.389"]
    assert "No run of full memory is done" in text


# Records.


def test_a_record_is_read_as_it_was_written_and_what_came_later_may_lack(tmp_path: Path) -> None:
    repeats = (Recall(gap_tokens=0, gains=(0.5, 1.5)),)
    run = replace(result("two-scale", 1, recipe={"interleave": 3}), repeats=repeats)
    run.write(tmp_path)
    assert read_records(tmp_path, "dsmr") == [run]
    old = to_json(run)
    del old["playing"], old["cuts"], old["repeats"], old["recipe"]["balance_titles"]
    record_path(tmp_path, "two-scale", 1).write_text(json.dumps(old))
    (read,) = read_records(tmp_path, "dsmr")
    assert (read.recipe, read.model, read.evaluation) == (run.recipe, run.model, run.evaluation)
    assert (read.playing, read.cuts, read.repeats) == (None, (), ())
    del old["evaluation"]
    record_path(tmp_path, "two-scale", 1).write_text(json.dumps(old))
    with pytest.raises(RitornelloError, match=r"two-scale-seed-1\.json: is not the record of a run .*evaluation"):
        read_records(tmp_path, "dsmr")


# The command line.


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    out = tmp_path / "finished"
    rows = ("full memory", "two-scale", "binary, low layers", "binary, high layers")
    for row, seed in ((row, seed) for row in rows for seed in (0, 1)):
        result(row, seed, nats=(200.0 + len(row), 600.0 + seed)).write(out)
    return out


def test_the_table_is_written_printed_and_drawn(study: Run, finished: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "table.png", tmp_path / "curves.png"
    outcome = study("table", "dsmr", "--out", finished, "--png", pictures[0], "--curves", pictures[1])
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("## Perplexity")
    for picture in pictures:
        assert_drawn(picture)
    written = tmp_path / "report.md"
    outcome = study("table", "dsmr", "--out", finished, "--markdown", written, "--json")
    assert written.read_text().startswith("## Perplexity")
    found = json.loads(outcome.out)
    assert found["study"] == "dsmr"
    assert found["rows"][0]["row"] == "full memory"
    assert found["rows"][0]["seeds"] == [0, 1]
    assert found["rows"][0]["paper"]["perplexity"] == 5.98


def test_a_folder_without_runs_and_files_that_are_none_are_one_line(study: Run, finished: Path) -> None:
    assert_refused(study("table", "dsmr", "--out", finished / "no"), "no run of a study")
    assert_refused(study("table", "perceivers", "--out", finished), "runs of the study dsmr, not of perceivers")
    assert_refused(study("table", "fugues", "--out", finished), "'fugues'", "dsmr, perceivers")
    assert_refused(
        study("table", "dsmr", "--out", finished, "--png", finished / "no" / "t.png"), "folder does not exist"
    )
    damaged = record_path(finished, "two-scale", 1)
    damaged.write_text(damaged.read_text()[:100])
    assert_refused(study("table", "dsmr", "--out", finished), damaged.name)


def test_repeats_and_ages_are_means_over_seeds_and_a_row_without_them_is_empty() -> None:
    """By hand: pieces' gains of two seeds (0, 1) and (1, 2) are 0.5 and 1.5, so 1 with a standard error of 0.5."""

    def run(seed: int, *gains: float, nats: float) -> Record:
        old = result("two-scale", seed)
        ages = (Bin(from_=2048, tokens=7, nats_per_token=nats),)
        return replace(old, repeats=(Recall(200, gains),), material=replace(old.material, by_age=ages))

    row = Row("remembers", [run(0, 0.0, 1.0, nats=1.0), run(1, 1.0, 2.0, nats=3.0)])
    flat = Row("does not", [run(0, 0.0, 0.0, nats=4.0)])
    old = Row("older", [result("two-scale")])
    assert row.repeats() == [(200, 2, (1.0, pytest.approx(0.5)))]
    _, gains, _, ages = report.repeat_tables([old, row, flat])
    assert gains.splitlines()[0] == "| row | 200 (2) |"
    assert gains.splitlines()[2:] == ["| older |  |", "| remembers | +1.000 ± 0.500 |", "| does not | +0.000 ± 0.000 |"]
    assert ages.splitlines()[0] == "| row | 2,048 on (7 tokens) |"
    assert ages.splitlines()[2:] == ["| older |  |", "| remembers | 2.0000 ± 1.4142 |", "| does not | 4.0000 |"]
    assert report.repeat_tables([old]) == []


@pytest.mark.parametrize("folder", sorted(STUDIES.iterdir()), ids=lambda folder: folder.name)
def test_the_tables_of_the_documents_are_made_again_from_their_records(study: Run, folder: Path) -> None:
    outcome = study("table", folder.name, "--out", folder, "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.figures["rows"]) == len({path.name.split("-seed-")[0] for path in (folder / "runs").iterdir()})
