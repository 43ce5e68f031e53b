"""What was equal in a study and what was not, in words."""

from __future__ import annotations

from typing import Any

from ritornello.studies.summary import STATE_AFTER_TOKENS, Row

READING = (
    "± is the standard deviation over seeds; of nats/token behind another row it is the standard error over pieces, "
    "seeds and pieces paired.",
    "Peak memory is that of training and its validations, beyond the idle process; the state is one lane's after "
    f"{STATE_AFTER_TOKENS:,} tokens.",
)


def conditions(rows: list[Row]) -> str:
    """A list in Markdown, from the settings and measurements of the runs alone."""
    runs = [run for row in rows for run in row.runs]
    settings: dict[str, Any] = runs[0]["settings"]
    return "\n".join(f"- {line}" for line in (*_equal(rows, settings), *_unequal(rows), *READING))


def _equal(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    run, recipe = rows[0].runs[0], settings["recipe_settings"]
    model, read = recipe["model"], run["evaluation"]
    tokens = _distinct(run["training"]["tokens"] for row in rows for run in row.runs)
    kind = "under the grammar" if settings["legal"] else "over all events, without the grammar"
    return [
        f"Equal for all rows, data: {settings['corpus']}; {settings['corpus_tokens']['train']:,} tokens to train on.",
        f"Equal, size: {run['parameters'] / 1e6:.2f} M parameters in {rows[0].schedule.layers} layers of width "
        f"{model['width']}, {model['heads']} heads, segments of {model['segment_tokens']:,} tokens.",
        f"Equal, training: {settings['steps']:,} steps in {recipe['lanes']} lanes, {_span(tokens)} tokens, in "
        f"{settings['precision']}, {kind}; for each seed the same weights at the start and the same order of pieces.",
        f"Equal, figures: {read['pieces']} whole validation pieces ({read['tokens']:,} tokens), read from an empty "
        "state at the checkpoint that validated best.",
    ]


def _unequal(rows: list[Row]) -> list[str]:
    budgets = _distinct(row.schedule.budget_tokens for row in rows if row.schedule.budget_tokens is not None)
    machines = _distinct(
        f"{run['machine']['device']}, threads: {run['machine']['threads']}, torch {run['machine']['torch']}"
        for row in rows
        for run in row.runs
    )
    all_seeds = _distinct(seed for row in rows for seed in row.seeds)
    fewer = [f"{row.name} only {_list(row.seeds)}" for row in rows if row.seeds != all_seeds]
    speed = "tokens/s and peak memory also show what else ran there ('ritornello bench train' measures them alone)"
    return [
        *([f"Budget of the limited rows: {_span(budgets)} tokens."] if budgets else []),
        f"Seeds: {'; '.join([_list(all_seeds), *fewer])}.",
        f"{'Machine' if len(machines) == 1 else 'Not equal, machines'}: {'; '.join(machines)}; {speed}.",
        "Not equal to the paper: its data are MAESTRO, and its model, training and GPU are its own. Ratios compare, "
        "figures do not.",
    ]


def _distinct(values: Any) -> list[Any]:
    return sorted(set(values))


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _span(values: list[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
