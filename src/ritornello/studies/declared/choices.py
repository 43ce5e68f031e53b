"""The training and recall studies: what each choice of a recipe or a model is worth at equal tokens, alone."""

from __future__ import annotations

from dataclasses import asdict, replace

from ritornello.horizons import HorizonSchedule
from ritornello.horizons.text import study_texts
from ritornello.models.config import DSMRConfig
from ritornello.studies import report
from ritornello.studies.report import PARAMETERS, ROW, SEEDS, Column, Row
from ritornello.studies.study import Recipes, Study
from ritornello.training.recipes import MOTIF_NOTES, Recipe

UNCHANGED = "unchanged"


def choices(recipe: Recipe, budget_tokens: int) -> Recipes:
    """All rows; unchanged is the recipe in four groups of twice its lanes, of half their length."""
    recipe = replace(recipe, balance_titles=False)
    base = _streamed(recipe, 2, 1 / 2, interleave=4)
    adam = replace(base, optimiser="adamw", weight_decay=0.1)  # which wants rates and a decay of its own
    streams = [
        *(_streamed(recipe, 1, 1), _streamed(recipe, 1, 1, interleave=4), _streamed(recipe, 2, 1 / 2)),
        *(_streamed(recipe, 4, 1 / 4), _streamed(recipe, 4, 1 / 4, interleave=4), _streamed(recipe, 8, 1 / 8)),
        # fewer, and more, a step
        *(_streamed(recipe, 1, 1 / 2, interleave=4), _streamed(recipe, 4, 1 / 2, interleave=4)),
    ]
    depth, heads = base.streaming.schedule.layers, base.streaming.heads
    shapes = [
        _shaped(base.streaming, budget_tokens, layers=2 * depth, heads=max(1, heads * 2 // 3)),
        _shaped(base.streaming, budget_tokens, layers=depth // 2, heads=heads * 4 // 3),
    ]
    return {
        UNCHANGED: base,
        **{f"{row.interleave} x {row.lanes} lanes of {row.streaming.segment_tokens}": row for row in streams},
        **{f"AdamW for all, {rate:g}": replace(adam, matrix_lr=rate) for rate in (0.0003, 0.001, 0.003, 0.01)},
        **{f"matrices at {x:g} x the rate": replace(base, matrix_lr=x * base.matrix_lr) for x in (0.5, 1.5)},
        **{f"the rest at {x:g} x the rate": replace(base, other_lr=x * base.other_lr) for x in (0.5, 2)},
        "rates fall all the way": replace(base, decay_share=1.0),
        "rates fall in the last third": replace(base, decay_share=1 / 3),
        "no warm-up": replace(base, warmup_steps=0),
        "every title as often": replace(base, balance_titles=True),
        "memories grow for half of the run": replace(base, horizon_warmup_share=0.5),
        "transposed and stretched": replace(base, augmentation=replace(base.augmentation, semitones=3, stretch=0.05)),
        "dropout 0.1": replace(base, model=replace(base.streaming, dropout=0.1)),
        "trained without the grammar": replace(base, legal=False),
        **{f"{shape.schedule.layers} layers of {shape.width}": replace(base, model=shape) for shape in shapes},
    }


def _streamed(recipe: Recipe, lanes: int, segments: float, *, interleave: int = 1) -> Recipe:
    """Some times the lanes, of some times the length."""
    model = replace(recipe.streaming, segment_tokens=int(segments * recipe.streaming.segment_tokens))
    return replace(recipe, lanes=lanes * recipe.lanes, interleave=interleave, model=model)


def _shaped(model: DSMRConfig, budget_tokens: int, *, layers: int, heads: int) -> DSMRConfig:
    """Deeper and narrower, or the other way, with as many weights, in heads of one size."""
    width = heads * model.width // model.heads
    weights = sum(inputs * outputs for name, (inputs, outputs) in model.matrices.items() if name != "head")
    mlp_width = round((weights / layers - 4 * width**2) / (3 * width))
    text = study_texts(layers=layers, budget_tokens=budget_tokens)["two-scale"]
    schedule = HorizonSchedule.parse(text, layers=layers)
    return replace(model, schedule=schedule, width=width, heads=heads, mlp_width=mlp_width)


def recalls(recipe: Recipe, budget_tokens: int) -> Recipes:
    """What a model is given to find and to remember passages by, in the recipe's own horizons; unchanged has none."""
    model = recipe.streaming
    kinds = {
        UNCHANGED: replace(model, qk_bias=False, motif_notes=0),
        "biases": replace(model, qk_bias=True, motif_notes=0),
        "biases, motif memory": replace(model, qk_bias=True, motif_notes=MOTIF_NOTES),
        "biases, motif memory of 1,024 strikes": replace(model, qk_bias=True, motif_notes=1024),
    }
    return {name: replace(recipe, balance_titles=False, model=kind) for name, kind in kinds.items()}


COLUMNS = (
    *(ROW, SEEDS),
    Column("", "recipe", lambda row, _: row.first.recipe.settings()),
    report.nats_above("behind_unchanged", "nats/token behind unchanged"),
    report.nats_above_by_seed("behind_unchanged_by_seed", "the same by seed"),
    report.plain("nats_per_token", "nats/token", ".4f"),
    report.plain("tokens_per_s"),
    replace(report.ratio("tokens/s / unchanged", "tokens_per_s"), key="tokens_per_s_ratio"),
    PARAMETERS,
)


def notes(rows: list[Row]) -> list[str]:
    """In what the row that changes nothing differs from the recipe that the study was asked for."""
    lines = []
    if unchanged := report.row_named(rows, UNCHANGED):
        run = unchanged.first
        base, own = (
            {**asdict(r), **r.model.to_json(), "model": None} for r in (run.settings.recipe_settings, run.recipe)
        )
        changed = sorted(f"{name} = {own[name]}" for name in base.keys() & own.keys() if base[name] != own[name])
        words = f" with {', '.join(changed)}" if changed else ""
        lines = [f"Unchanged: the recipe {own['name']}{words}. A row says what it changes, and changes nothing else."]
    validated = rows[0].first.recipe.validation_pieces
    return [
        *lines,
        f"Steps of more tokens are fewer. The validations on the way were of {validated or 'all'} pieces.",
        f"{report.INTERVALS} What other seeds would give is said by the column beside it.",
    ]


TRAINING = Study(
    name="training",
    recipe="study",
    rows=choices,
    of_memory=False,
    legal=True,
    baseline=UNCHANGED,
    heading="What each choice is worth",
    columns=COLUMNS,
    notes=notes,
    sections=lambda rows, unchanged: report.repeat_tables(rows),
)
STUDIES = (TRAINING, replace(TRAINING, name="recall", rows=recalls, legal=False))
