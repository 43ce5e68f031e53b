"""DSMR obeys the law under every kind of schedule, and the law catches models that do not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import law
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law import CLAIMS, GRADIENT_CLAIMS, Claim, Subject, attention_memory_bytes
from torch import Generator, Tensor, nn

from ritornello import codec
from ritornello.horizons import HorizonSchedule
from ritornello.models.dsmr import DSMR, DSMRConfig, State

SEGMENT_TOKENS = 6
WIDTH = 16
EVERY_CLAIM = (*CLAIMS, *GRADIENT_CLAIMS)

SCHEDULES = {
    "two_scale": HorizonSchedule.two_scale(layers=4, n_long=2, long=18, short=6),
    "uniform": HorizonSchedule.uniform(layers=3, horizon=12),
    "without_memory": HorizonSchedule.uniform(layers=3, horizon=0),
    "unlimited": HorizonSchedule.unlimited(layers=3),
    "zeros_in_the_middle": HorizonSchedule((12, 0, 0, 6)),
    "long_in_the_lowest_alone": HorizonSchedule((18, 0, 0)),
    "no_multiples_of_a_segment": HorizonSchedule((7, 1, 11, 5)),
    "unlimited_among_others": HorizonSchedule((4, None, 0)),
}
RULES = ("segment", "sliding")


def generator() -> Generator:
    return torch.Generator().manual_seed(20_260_219)


@torch.no_grad()
def awaken(model: DSMR, seed: int) -> DSMR:
    """Weights under which every branch and every key matters: a fresh model's branches are silent."""
    rng = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            fan_in = 1 if name.startswith("embedding") else weight.shape[1]
            weight.normal_(std=fan_in**-0.5, generator=rng)
        elif name.endswith("sharpness"):
            weight.uniform_(0.5, 3, generator=rng)
        else:
            weight.uniform_(0.5, 1.5, generator=rng)
    return model.eval()


def state_tensors(state: State) -> dict[str, Tensor]:
    layers = range(len(state.keys))
    keys = {f"keys.{i}": state.keys[i] for i in layers}
    values = {f"values.{i}": state.values[i] for i in layers}
    return {**keys, **values, "position": state.position}


def state_from(tensors: Mapping[str, Tensor]) -> State:
    layers = range((len(tensors) - 1) // 2)
    keys, values = (tuple(tensors[f"{kind}.{i}"] for i in layers) for kind in ("keys", "values"))
    return State(keys, values, tensors["position"])


def subject_of(
    schedule: HorizonSchedule,
    *,
    segment_tokens: int = SEGMENT_TOKENS,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-10,
    far_tolerance: float = 1e-7,
    kind: type[DSMR] = DSMR,
) -> Subject[State]:
    """A tiny DSMR under ``schedule``, with everything that the law wants to know."""
    config = DSMRConfig(schedule, width=WIDTH, heads=2, mlp_width=24, segment_tokens=segment_tokens)
    with torch.random.fork_rng():
        model = awaken(kind(config).to(dtype), seed=7)
    size = torch.finfo(dtype).bits // 8
    finite = [h for h in schedule.horizons if h is not None]
    reach = schedule.reach_tokens(segment_tokens=segment_tokens)
    return Subject(
        model=model,
        schedule=schedule,
        vocabulary=codec.N_EVENTS,
        padding=codec.PAD,
        reading_tokens=(sum(finite) + 2 * segment_tokens if reach is None else reach) + 2 * segment_tokens + 3,
        tolerance=tolerance,
        far_tolerance=far_tolerance,
        tensors=state_tensors,
        from_tensors=state_from,
        standing_at=lambda positions: model.initial_state(len(positions))._replace(position=positions),
        memory_bytes=State.nbytes,
        declared_bytes=attention_memory_bytes(
            schedule, segment_tokens=segment_tokens, width=WIDTH, bytes_per_number=size
        ),
        full_bytes=schedule.state_bytes(width=WIDTH, bytes_per_number=size),
        first_reached=functools.partial(schedule.first_reached, segment_tokens=segment_tokens),
        attached=functools.partial(model.forward, detach=False),
        embedding=model.embedding.weight,
    )


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_dsmr_obeys(name: str, rule: Any, claim: Claim) -> None:
    claim(subject_of(dataclasses.replace(SCHEDULES[name], rule=rule)), generator())


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
def test_dsmr_obeys_in_single_precision(claim: Claim) -> None:
    claim(subject_of(SCHEDULES["two_scale"], dtype=torch.float32, tolerance=1e-4, far_tolerance=1e-4), generator())


@st.composite
def schedules(draw: st.DrawFn, segment_tokens: int) -> HorizonSchedule:
    horizon = st.none() | st.integers(0, 2 * segment_tokens + 3)
    horizons = draw(st.lists(horizon, min_size=1, max_size=4))
    return HorizonSchedule(tuple(horizons), draw(st.sampled_from(RULES)))


@settings(max_examples=6, deadline=None)
@given(data=st.data(), segment_tokens=st.integers(4, 8), seed=st.integers(0, 2**31))
def test_dsmr_obeys_under_any_schedule(data: st.DataObject, segment_tokens: int, seed: int) -> None:
    subject = subject_of(data.draw(schedules(segment_tokens)), segment_tokens=segment_tokens)
    for claim in EVERY_CLAIM:
        claim(subject, torch.Generator().manual_seed(seed))
