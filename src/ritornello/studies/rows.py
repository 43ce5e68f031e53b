"""The studies as data: what each compares, every row a name and the recipe that it is trained by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.study import study_texts
from ritornello.models.dsmr import DSMRConfig
from ritornello.models.perceivers import PerceiverConfig
from ritornello.studies.summary import UNCHANGED
from ritornello.training.recipes import Recipe, recipe_named

Rows = dict[str, Recipe]


@dataclass(frozen=True)
class Study:
    """One comparison."""

    recipe: str
    """name of the recipe that its rows are made from, unless another is asked for"""
    rows: Callable[[Recipe, int], Rows]
    """from that recipe, and the sum of the horizons of every row that has a limit to them"""
    horizons_of: Callable[[Recipe], Recipe]
    """the recipe whose horizons those are"""
    of_memory: bool = True
    """whether its runs also tell what shorter horizons lose and what playing costs"""
    legal: bool = False
    """whether it is under the grammar, unless asked otherwise"""

    def budget_tokens(self, recipe: str) -> int:
        """The sum of the horizons that a recipe has of its own; 0 where they have no limit."""
        return self.horizons_of(recipe_named(recipe)).streaming.schedule.budget_tokens or 0


def _schedules(recipe: Recipe, budget_tokens: int) -> Rows:
    """The rows of arXiv 2602.19816: one model, other horizons."""
    texts = study_texts(layers=recipe.streaming.schedule.layers, budget_tokens=budget_tokens)
    return {name: recipe.changed(schedule=text) for name, text in texts.items()}


def _steps_to_perceivers(recipe: Recipe, budget_tokens: int) -> Rows:
    """The two experiments of arXiv 2411.08307 (section VI-B), and DSMR: each look more is a layer of latents less."""
    if not isinstance(recipe.model, PerceiverConfig):
        raise RitornelloError(f"the recipe {recipe.name} is of a model without latents; name one of PerceiverS")
    multi = replace(recipe, segmentation="random_end")
    layers = recipe.model.layers + len(recipe.model.scales) - 1
    one = replace(multi, model=replace(recipe.model, scales=(None,), layers=layers))
    return {
        "Perceiver AR": replace(one, segmentation="random_start"),
        "effective segmentation": one,
        "multi-scale": multi,
        "DSMR two-scale": _schedules(_of_dsmr(recipe), budget_tokens)["two-scale"],
    }


def _of_dsmr(recipe: Recipe) -> Recipe:
    """DSMR's recipe of the size of one of PerceiverS."""
    return recipe_named(recipe.name.removeprefix("perceivers_"))


def _choices(recipe: Recipe, budget_tokens: int) -> Rows:
    """What a recipe chooses, one thing at a time, beside it in four groups of twice its lanes, of half their length."""
    model = recipe.streaming

    def streamed(lanes: float, segments: float, groups: int = 1) -> Recipe:
        """Some times the lanes, of some times the length."""
        shorter = replace(model, segment_tokens=int(segments * model.segment_tokens))
        return replace(recipe, lanes=int(lanes * recipe.lanes), groups=groups, model=shorter)

    base = streamed(2, 1 / 2, 4)

    def shaped(layers: int, heads: int) -> DSMRConfig:
        """As many weights in as wide heads."""
        text = study_texts(layers=layers, budget_tokens=budget_tokens)["two-scale"]
        width = heads * model.width // model.heads
        weights = model.schedule.layers * (4 * model.width**2 + 3 * model.width * model.mlp_width)
        mlp_width = round((weights / layers - 4 * width**2) / (3 * width))
        schedule = HorizonSchedule.parse(text, layers=layers)
        return replace(base.streaming, schedule=schedule, width=width, heads=heads, mlp_width=mlp_width)

    def drawn(one: Recipe) -> str:
        return f"{one.groups} x {one.lanes} lanes of {one.streaming.segment_tokens}"

    in_turn = [(1, 1, 1), (1, 1, 4), (2, 1 / 2, 1), (4, 1 / 4, 1), (4, 1 / 4, 4), (8, 1 / 8, 1)]
    other_steps = [(1, 1 / 2, 4), (4, 1 / 2, 4)]
    streams = [streamed(*times) for times in in_turn + other_steps]
    rates = {f"matrices at {x:g} x the rate": replace(base, matrix_lr=x * base.matrix_lr) for x in (0.5, 1.5)}
    rates |= {f"the rest at {x:g} x the rate": replace(base, other_lr=x * base.other_lr) for x in (0.5, 2)}
    adam = replace(base, optimiser="adamw", weight_decay=0.1)
    depth, heads = model.schedule.layers, model.heads
    shapes = [shaped(2 * depth, max(1, heads * 2 // 3)), shaped(depth // 2, heads * 4 // 3)]
    return {
        UNCHANGED: base,
        **{drawn(one): one for one in streams},
        **{f"AdamW for all, {rate:g}": replace(adam, matrix_lr=rate) for rate in (0.003, 0.01)},
        **rates,
        "rates fall all the way": replace(base, decay_share=1.0),
        "rates fall in the last third": replace(base, decay_share=1 / 3),
        "no warm-up": replace(base, warmup_steps=0),
        "memories grow for half of the run": replace(base, growing=0.5),
        "transposed and stretched": replace(base, augmentation=replace(base.augmentation, semitones=3, stretch=0.05)),
        "dropout 0.1": replace(base, model=replace(base.streaming, dropout=0.1)),
        "trained without the grammar": replace(base, legal=False),
        **{f"{one.schedule.layers} layers of {one.width}": replace(base, model=one) for one in shapes},
    }


STUDIES = {
    "dsmr": Study("study", _schedules, lambda recipe: recipe),
    "perceivers": Study("perceivers_study", _steps_to_perceivers, _of_dsmr),
    "training": Study("study", _choices, lambda recipe: recipe, of_memory=False, legal=True),
}
