"""The studies as data: what each compares, every row a name and the recipe that it is trained by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.study import study_texts
from ritornello.models.config import DSMRConfig, PerceiverConfig
from ritornello.studies.choosing import choices, recalls
from ritornello.studies.summary import GROWING, REFERENCE
from ritornello.training.recipes import RECIPES, Recipe, recipe_named

Rows = dict[str, Recipe]
GROWING_SHARE = 0.5  # of the run


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
    """The rows of arXiv 2602.19816: one model, other horizons; and two of ours, whose memories grow during training."""
    recipe = replace(recipe, by_title=False)  # crops are taken of every performance too
    texts = study_texts(layers=recipe.streaming.schedule.layers, budget_tokens=budget_tokens)
    rows = {name: recipe.changed(schedule=text) for name, text in texts.items()}
    grown = {f"{name}, {GROWING}": replace(rows[name], growing=GROWING_SHARE) for name in (REFERENCE, "two-scale")}
    return rows | grown


def _steps_to_perceivers(recipe: Recipe, budget_tokens: int) -> Rows:
    """The two experiments of arXiv 2411.08307 (section VI-B), and DSMR. The recipe says what rows of one look keep."""
    if not isinstance(recipe.model, PerceiverConfig):
        raise RitornelloError(f"the recipe {recipe.name} is of a model without latents; name one of PerceiverS")
    multi = replace(recipe, segmentation="random_end")
    layers = recipe.model.layers + (len(recipe.model.scales) - 1 if recipe.equal == "parameters" else 0)
    one = replace(multi, model=replace(recipe.model, scales=(None,), layers=layers))
    return {
        "Perceiver AR": replace(one, segmentation="random_start"),
        "effective segmentation": one,
        "multi-scale": multi,
        "DSMR two-scale": _schedules(_of_dsmr(recipe), budget_tokens)["two-scale"],
    }


def _of_dsmr(recipe: Recipe) -> Recipe:
    """DSMR's recipe of the size of one of PerceiverS: its namesake with as many times its lanes, else one made from it.

    In that a look is a layer more, which has as many weights, a segment is as long as the latents, and the sum of the
    horizons is the context.
    """
    model, name = recipe.model, recipe.name.removeprefix("perceivers_")
    if name in RECIPES or not isinstance(model, PerceiverConfig):
        twin = recipe_named(name)
        lanes = max(1, twin.lanes * recipe.lanes // recipe_named(recipe.name).lanes)
        return replace(twin, lanes=lanes, piece_tokens=recipe.piece_tokens, legal=recipe.legal)
    layers = model.layers + len(model.scales)
    text = study_texts(layers=layers, budget_tokens=model.context_tokens)["two-scale"]
    sizes = {
        size: getattr(model, size) for size in ("width", "heads", "mlp_width", "dropout", "qk_bias", "motif_notes")
    }
    schedule = HorizonSchedule.parse(text, layers=layers)
    return replace(recipe, model=DSMRConfig(schedule, segment_tokens=model.latents, **sizes))


STUDIES = {
    "dsmr": Study("study", _schedules, lambda recipe: recipe),
    "perceivers": Study("perceivers_study", _steps_to_perceivers, _of_dsmr),
    "training": Study("study", choices, lambda recipe: recipe, of_memory=False, legal=True),
    "recall": Study("study", recalls, lambda recipe: recipe, of_memory=False),
}
