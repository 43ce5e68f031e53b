"""The verb ``schedules``: its figures are those of the schedules, its picture shows them, bad input gets one line."""

from __future__ import annotations

import json
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import pytest
from command import Outcome, Run, assert_empty, assert_refused
from PIL import Image

from ritornello.horizons import HorizonSchedule, chart


@pytest.fixture
def run(command: Run) -> Run:
    """The verb."""
    return partial(command, "schedules")


def rows(outcome: Outcome) -> dict[str, dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return {row["name"]: row for row in json.loads(outcome.out)["schedules"]}


# Figures.


def test_the_study_stands_side_by_side_under_one_budget(run: Run) -> None:
    table = rows(run("--json"))
    assert len(table) == 10
    full = table.pop("full memory")
    assert full["horizons"] == [None] * 8
    assert full["state_bytes"]["int8"] == 8 * 16_384 * 2 * 256
    assert {row["budget_tokens"] for row in table.values()} == {8192}
    assert {row["state_bytes"]["fp32"] for row in table.values()} == {16_777_216}
    assert [name for name, row in table.items() if row["rule"] == "sliding"] == ["binary, sliding"]
    assert all(row["attention_flops_per_token"] < full["attention_flops_per_token"] for row in table.values())


def test_sizes_change_the_figures(run: Run) -> None:
    options = ("--layers", 3, "--width", 10, "--segment", 4, "--piece", 7, "--json")
    (row,) = rows(run("binary(budget=7, layers=1+3) sliding", *options)).values()
    assert row["schedule"] == "3, 0, 3 sliding"
    assert row["horizons"] == [3, 0, 3]
    assert (row["asked_budget_tokens"], row["budget_tokens"]) == (7, 6)
    assert row["state_bytes"] == {"fp32": 480, "bf16": 240, "int8": 120}
    # Keys of the seven queries: 1 2 3 4 4 4 4 under the horizon 3, and 1 2 3 4 1 2 3 without one; 40 FLOPs a key.
    assert row["attention_flops_per_token"] == pytest.approx((22 + 16 + 22) * 40 / 7)
    assert row["full_attention_flops_per_token"] == (4 + 2.5 + 4) * 40
    # From phase 2: 3 back (phase 3), its segment's start, and 3 more.
    assert row["reach_tokens"] == 3 + 3 + 3


def test_the_table_shows_what_the_figures_say(run: Run) -> None:
    outcome = run("2x4096, 6x512", "uniform(budget=8199)", "unlimited", "8x0")
    assert outcome.code == 0
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    # In a piece of 32 segments horizons of 4096 see 3776.5 keys, of 512 see 752.5, each 1024 FLOPs. Down from the last
    # token of a segment: 511, six times 512, twice 4096.
    assert "2x4096, 6x512 11,264 23.1 MB 11.5 MB 5.77 MB 12.36 11,775" in lines
    assert "unlimited no limit 268 MB 134 MB 67.1 MB 67.11 piece" in lines
    assert "8x0 0 0 B 0 B 0 B 2.10 511" in lines
    assert "8x1024" in lines
    assert "uniform(budget=8199): a budget of 8,199 tokens became 8,192" in outcome.err
    assert outcome.err.count("became") == 1


# The picture.


def test_the_picture_is_written(run: Run, tmp_path: Path) -> None:
    outcome = run("--png", tmp_path / "all.png", "--budget", 100)
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "all.png") as image:
        assert image.width > image.height > 400
        assert len(set(image.convert("RGB").resize((200, 80)).tobytes())) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]


def drawn(monkeypatch: pytest.MonkeyPatch, *texts: str) -> Any:
    """The figure of schedules of eight layers, laid out but not written."""
    figures: list[Any] = []
    monkeypatch.setattr(chart, "save", lambda figure, path: figures.append(figure))
    schedules = {text: HorizonSchedule.parse(text, layers=8) for text in texts}
    chart.draw_schedules(schedules, Path("nowhere.png"), segment_tokens=512)
    figures[0].draw_without_rendering()
    return figures[0]


def test_a_picture_leaves_the_settings_of_matplotlib_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(matplotlib.rcParams)
    figure = drawn(monkeypatch, "uniform(512)")
    assert figure.get_facecolor() != matplotlib.colors.to_rgba(before["figure.facecolor"])
    assert dict(matplotlib.rcParams) == before


def bars(axes: Any) -> dict[int, float]:
    """How far back every layer's bar goes."""
    ends: dict[int, float] = {}
    for bar in axes.patches:
        layer = round(bar.get_y() + bar.get_height() / 2)
        ends[layer] = max(ends.get(layer, 0), bar.get_x() + bar.get_width())
    return ends


def test_bars_reach_as_far_back_as_the_horizons_on_one_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = drawn(monkeypatch, "ascending(low=100, high=800)", "unlimited, 3x4000, 4x0").axes
    assert bars(first) == {layer: 100 * layer for layer in range(1, 9)}
    edge, now = second.get_xlim()
    assert (edge, now) == first.get_xlim()
    assert edge > 4000
    assert now == 0
    ends = bars(second)
    assert ends.pop(1) == pytest.approx(edge)
    assert ends == {2: 4000, 3: 4000, 4: 4000, 5: 0, 6: 0, 7: 0, 8: 0}
    low, high = first.get_ylim()
    assert low < 1 < 8 < high


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_nothing_overlaps_however_many_there_are(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    texts = [f"binary(budget={8_000_000 + i}, layers=1+2+3+4+5+6+7+8) sliding" for i in range(count)]
    figure = drawn(monkeypatch, *texts)
    boxes = [figure._supxlabel.get_window_extent(), figure._supylabel.get_window_extent()]
    for axes in figure.axes:
        if axes.axison:
            boxes += [axes.get_window_extent(), axes.texts[0].get_window_extent(), axes._left_title.get_window_extent()]
    assert len(boxes) == 2 + 3 * count
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in boxes)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["6x512"], ["'6x512'", "6 layers, the model has 8"]),
        (["8x-1"], ["'8x-1'", "whole tokens"]),
        (["8x1.5"], ["'8x1.5'", "whole tokens"]),
        (["uniform(budget=7)"], ["a budget of 7 tokens is smaller than the depth of 8 layers", "at least 8"]),
        (["8x512", "sometimes"], ["'sometimes'", "known are unlimited, perceiver_ar, two_scale"]),
        (["--budget", "5"], ["a budget of 5 tokens is smaller than the depth of 8 layers"]),
        (["--layers", "0"], ["--layers", "--help"]),
        (["--png", "nowhere/s.png"], ["nowhere/s.png", "folder does not exist"]),
        (["--png", "s.gif"], ["s.gif", ".png or .svg"]),
    ],
)
def test_bad_input_gets_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], says: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), *says)
    assert_empty(tmp_path)


def test_a_picture_that_cannot_be_written_is_refused_before_work(run: Run) -> None:
    assert_refused(run("no schedule", "--png", "nowhere/s.png"), "folder does not exist")
