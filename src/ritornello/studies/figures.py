"""The DSMR study as pictures: the table, and the curves behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ritornello.charts import COLOURS, FAINT, new_figure, save
from ritornello.recall import gap_axis
from ritornello.studies.results import Result
from ritornello.studies.summary import PUBLISHED, REFERENCE, Row, reference_of, rows_of
from ritornello.studies.table import HEADER, main_cells

SMOOTHED_LINES = 10  # of the training log, one line being ten steps
STRIPE = "#f1ede3"
Colours = dict[str, str]


def draw_table(results: list[Result], path: Path) -> None:
    """The paper's table with our figures, as a picture."""
    draw_cells(HEADER, main_cells(rows_of(results)), path)


def draw_curves(results: list[Result], path: Path) -> None:
    """Perplexity by row, training curves against tokens and seconds, cuts, positions, the repeat test."""
    rows = rows_of(results)
    colours = {row.name: COLOURS[i % len(COLOURS)] for i, row in enumerate(rows)}
    figure = new_figure(15, 9.5)
    ((dots, tokens, seconds), (cuts, position, repeats)) = figure.subplots(2, 3)
    _perplexities(dots, rows, colours)
    _training(tokens, rows, colours, against="tokens", scale=1e-6, unit="million tokens")
    _training(seconds, rows, colours, against="seconds", scale=1 / 60, unit="minutes, validations included")
    _cuts(cuts, rows, colours)
    _positions(position, rows, colours)
    _repeats(repeats, rows, colours)
    figure.legend(*tokens.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, path)


def _perplexities(axes: Any, rows: list[Row], colours: Colours) -> None:
    full = reference_of(rows)
    ours_of = full.perplexity.mean if full else 1.0
    for height, row in enumerate(reversed(rows)):
        ours = [run["evaluation"]["perplexity"] / ours_of for run in row.runs]
        axes.plot(ours, [height] * len(ours), "o", color=colours[row.name])
        if full and row.name in PUBLISHED:
            theirs = PUBLISHED[row.name].perplexity / PUBLISHED[REFERENCE].perplexity
            axes.plot([theirs], [height], "|", color=FAINT, ms=14, mew=2)
    name_heights(axes, rows)
    axes.set(title="Perplexity / full memory (o by seed, | the paper's)" if full else "Perplexity (o by seed)")


def _training(axes: Any, rows: list[Row], colours: Colours, *, against: str, scale: float, unit: str) -> None:
    """The first seed's curve of each row; the y axis fits the last three quarters."""
    late: list[float] = []
    for row in rows:
        log = [line for line in row.runs[0]["training"]["log"] if "nats" in line]
        recent = [[line["nats"] for line in log[max(0, i + 1 - SMOOTHED_LINES) : i + 1]] for i in range(len(log))]
        nats = [sum(values) / len(values) for values in recent]
        axes.plot([line[against] * scale for line in log], nats, color=colours[row.name], lw=1, label=row.name)
        late += nats[len(nats) // 4 :]
    if late:
        margin = 0.05 * (max(late) - min(late)) or 0.1
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set(title=f"Training loss against {against}, first seed", xlabel=unit, ylabel="nats/token, mean of 100 steps")


def _cuts(axes: Any, rows: list[Row], colours: Colours) -> None:
    for row in rows:
        whole, budget = row.nats_per_token.mean, row.schedule.budget_tokens
        points = [(left, nats.mean - whole) for _, left, nats in row.when_cut()]
        points += [] if budget is None else [(budget, 0.0)]
        axes.plot(*zip(*points), "o-", ms=3, lw=1, color=colours[row.name])
    axes.set_xscale("symlog", linthresh=100, base=10)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(title="Horizons cut at evaluation", xlabel="budget left, tokens", ylabel="nats/token more than uncut")


def _positions(axes: Any, rows: list[Row], colours: Colours) -> None:
    reference = reference_of(rows) or rows[0]
    bins = reference.by_position()
    for row in rows:
        more = [ours.mean - theirs.mean for (_, _, ours), (_, _, theirs) in zip(row.by_position(), bins)]
        axes.plot(range(len(bins)), more, "o-", ms=3, lw=1, color=colours[row.name])
    axes.set_xticks(range(len(bins)), [f"{low:,}" for low, _, _ in bins], rotation=45)
    axes.set(title="By position in the piece", xlabel="from token", ylabel=f"nats/token more than {reference.name}")


def _repeats(axes: Any, rows: list[Row], colours: Colours) -> None:
    for row in rows:
        gaps = [(gap, gain.mean) for gap, _, gain in row.repeats()]
        if gaps:
            axes.plot(*zip(*gaps), "o-", ms=3, lw=1, color=colours[row.name])
    gap_axis(axes)


def name_heights(axes: Any, rows: list[Row]) -> None:
    """The first row on top."""
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])


def draw_cells(header: tuple[str, ...], cells: list[list[str]], path: Path) -> None:
    """A table of a report as a picture; its first and last column are words."""
    above = [text.replace(" / ", "\n/ ").replace(" behind ", "\nbehind ") for text in header]
    widths = [max(len(text) for text in [*head.split("\n"), *column]) + 2 for head, column in zip(above, zip(*cells))]
    head_lines = max(text.count("\n") for text in above) + 1
    height_lines = 1.6 * len(cells) + 1.2 * head_lines
    figure = new_figure(0.085 * sum(widths), 0.2 * height_lines)
    axes = figure.subplots()
    axes.axis("off")
    table = axes.table(
        cellText=cells,
        colLabels=above,
        cellLoc="right",
        colWidths=[width / sum(widths) for width in widths],
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (line, column), cell in table.get_celld().items():
        cell.set_linewidth(0)
        cell.set_height((1.2 * head_lines if line == 0 else 1.6) / height_lines)
        cell.set_facecolor(STRIPE if line % 2 else "none")
        if column in (0, len(header) - 1):
            cell.get_text().set_horizontalalignment("left")
        if line == 0 or header[column] == "paper":
            cell.get_text().set_color(FAINT)
    save(figure, path)
