"""The rows of the training and recall studies: what a recipe or a model chooses, one thing at a time."""

from __future__ import annotations

from dataclasses import replace

from ritornello.horizons import HorizonSchedule
from ritornello.horizons.study import study_texts
from ritornello.models.config import DSMRConfig
from ritornello.studies.summary import UNCHANGED
from ritornello.training.recipes import MOTIF_NOTES, Recipe


def choices(recipe: Recipe, budget_tokens: int) -> dict[str, Recipe]:
    """All rows; unchanged is the recipe in four groups of twice its lanes, of half their length.

    Args:
        recipe: of a model with horizons.
        budget_tokens: their sum, in every row.
    """
    recipe = replace(recipe, by_title=False)
    base = _streamed(recipe, 2, 1 / 2, groups=4)
    return {
        UNCHANGED: base,
        **_streams(recipe),
        **_rates(base),
        "every title as often": replace(base, by_title=True),
        "memories grow for half of the run": replace(base, growing=0.5),
        "transposed and stretched": replace(base, augmentation=replace(base.augmentation, semitones=3, stretch=0.05)),
        "dropout 0.1": replace(base, model=replace(base.streaming, dropout=0.1)),
        "trained without the grammar": replace(base, legal=False),
        **_shapes(base, budget_tokens),
    }


def recalls(recipe: Recipe, budget_tokens: int) -> dict[str, Recipe]:
    """What a model is given to find and to remember passages by; unchanged has none of it.

    Args:
        recipe: of a model with horizons.
        budget_tokens: not asked: every row has the recipe's horizons.
    """
    recipe = replace(recipe, by_title=False)

    def with_(qk_bias: bool, motif_notes: int) -> Recipe:
        return replace(recipe, model=replace(recipe.streaming, qk_bias=qk_bias, motif_notes=motif_notes))

    return {
        UNCHANGED: with_(qk_bias=False, motif_notes=0),
        "biases": with_(qk_bias=True, motif_notes=0),
        "biases, motif memory": with_(qk_bias=True, motif_notes=MOTIF_NOTES),
        "biases, motif memory of 1,024 strikes": with_(qk_bias=True, motif_notes=1024),
    }


def _streams(recipe: Recipe) -> dict[str, Recipe]:
    """Other lanes and segments; the last two with fewer and with more tokens a step."""
    rows = [
        _streamed(recipe, 1, 1),
        _streamed(recipe, 1, 1, groups=4),
        _streamed(recipe, 2, 1 / 2),
        _streamed(recipe, 4, 1 / 4),
        _streamed(recipe, 4, 1 / 4, groups=4),
        _streamed(recipe, 8, 1 / 8),
        _streamed(recipe, 1, 1 / 2, groups=4),
        _streamed(recipe, 4, 1 / 2, groups=4),
    ]
    return {f"{row.groups} x {row.lanes} lanes of {row.streaming.segment_tokens}": row for row in rows}


def _streamed(recipe: Recipe, lanes: int, segments: float, *, groups: int = 1) -> Recipe:
    """Some times the lanes, of some times the length."""
    model = replace(recipe.streaming, segment_tokens=int(segments * recipe.streaming.segment_tokens))
    return replace(recipe, lanes=lanes * recipe.lanes, groups=groups, model=model)


def _rates(base: Recipe) -> dict[str, Recipe]:
    """Learning rates, how they rise and fall, and AdamW, which wants rates and a decay of its own."""
    adam = replace(base, optimiser="adamw", weight_decay=0.1)
    return {
        **{f"AdamW for all, {rate:g}": replace(adam, matrix_lr=rate) for rate in (0.0003, 0.001, 0.003, 0.01)},
        **{f"matrices at {x:g} x the rate": replace(base, matrix_lr=x * base.matrix_lr) for x in (0.5, 1.5)},
        **{f"the rest at {x:g} x the rate": replace(base, other_lr=x * base.other_lr) for x in (0.5, 2)},
        "rates fall all the way": replace(base, decay_share=1.0),
        "rates fall in the last third": replace(base, decay_share=1 / 3),
        "no warm-up": replace(base, warmup_steps=0),
    }


def _shapes(base: Recipe, budget_tokens: int) -> dict[str, Recipe]:
    """Deeper and narrower, and the other way, with as many weights, in heads of one size."""
    depth, heads = base.streaming.schedule.layers, base.streaming.heads
    models = [
        _shaped(base.streaming, budget_tokens, layers=2 * depth, heads=max(1, heads * 2 // 3)),
        _shaped(base.streaming, budget_tokens, layers=depth // 2, heads=heads * 4 // 3),
    ]
    return {f"{model.schedule.layers} layers of {model.width}": replace(base, model=model) for model in models}


def _shaped(model: DSMRConfig, budget_tokens: int, *, layers: int, heads: int) -> DSMRConfig:
    width = heads * model.width // model.heads
    weights = sum(inputs * outputs for name, (inputs, outputs) in model.matrices.items() if name != "head")
    mlp_width = round((weights / layers - 4 * width**2) / (3 * width))
    text = study_texts(layers=layers, budget_tokens=budget_tokens)["two-scale"]
    schedule = HorizonSchedule.parse(text, layers=layers)
    return replace(model, schedule=schedule, width=width, heads=heads, mlp_width=mlp_width)
