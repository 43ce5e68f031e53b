"""DSMR obeys the law under every kind of schedule, and the law catches models that do not."""

from __future__ import annotations

import dataclasses
import functools

import law
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from law import CLAIMS, GRADIENT_CLAIMS, Claim, Subject, attention_memory_bytes
from torch import Generator, Tensor

from ritornello.horizons import HorizonSchedule
from ritornello.models.attention import Attention, plain
from ritornello.models.dsmr import DSMR, DSMRConfig, DSMRState

SEGMENT_TOKENS = 6
WIDTH = 16
EVERY_CLAIM = (*CLAIMS, *GRADIENT_CLAIMS)

SCHEDULES = {
    "two_scale": HorizonSchedule.two_scale(layers=3, n_long=1, long=18, short=6),
    "uniform": HorizonSchedule.uniform(layers=2, horizon=12),
    "without_memory": HorizonSchedule.uniform(layers=3, horizon=0),
    "unlimited": HorizonSchedule.unlimited(layers=2),
    "zeros_in_the_middle": HorizonSchedule((12, 0, 0, 6)),
    "long_in_the_lowest_alone": HorizonSchedule((18, 0)),
    "no_multiples_of_a_segment": HorizonSchedule((7, 1, 11)),
    "unlimited_among_others": HorizonSchedule((4, None, 0)),
}
SLIDING = ("two_scale", "uniform", "zeros_in_the_middle", "no_multiples_of_a_segment", "unlimited_among_others")
CASES = {
    **SCHEDULES,
    **{f"{name}_sliding": dataclasses.replace(SCHEDULES[name], rule="sliding") for name in SLIDING},
}


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
        elif name.endswith("qk_scale"):
            weight.uniform_(0.5, 3, generator=rng)
        else:
            weight.uniform_(0.5, 1.5, generator=rng)
    return model.eval()


def subject_of(
    schedule: HorizonSchedule,
    *,
    segment_tokens: int = SEGMENT_TOKENS,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-12,
    far_tolerance: float = 1e-8,
    kind: type[DSMR] = DSMR,
    attention: Attention | None = None,
    qk_bias: bool = False,
) -> Subject:
    """A tiny DSMR under ``schedule``, with everything that the law wants to know."""
    config = DSMRConfig(schedule, width=WIDTH, heads=2, mlp_width=24, segment_tokens=segment_tokens, qk_bias=qk_bias)
    with torch.random.fork_rng():
        model = awaken(kind(config).to(dtype), seed=7)
    model.attention = attention
    size = torch.finfo(dtype).bits // 8
    finite = [h for h in schedule.horizons if h is not None]
    reach = schedule.reach_tokens(segment_tokens=segment_tokens)
    filled = max(finite, default=0) + 2 * segment_tokens
    return Subject(
        model=model,
        schedule=schedule,
        reading_tokens=(filled if reach is None else reach) + 2 * segment_tokens + 3,
        tolerance=tolerance,
        far_tolerance=far_tolerance,
        declared_bytes=attention_memory_bytes(
            schedule, segment_tokens=segment_tokens, width=WIDTH, bytes_per_number=size
        ),
        full_bytes=None if reach is None else (schedule.budget_tokens or 0) * 2 * WIDTH * size,
        first_reached=functools.partial(schedule.first_reached, segment_tokens=segment_tokens),
        attached=functools.partial(model.forward, detach=False),
    )


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("schedule", CASES.values(), ids=CASES)
def test_dsmr_obeys(schedule: HorizonSchedule, claim: Claim) -> None:
    claim(subject_of(schedule), generator())


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
def test_dsmr_obeys_in_single_precision(claim: Claim) -> None:
    claim(subject_of(SCHEDULES["two_scale"], dtype=torch.float32, tolerance=1e-4, far_tolerance=1e-4), generator())


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("name", ["no_multiples_of_a_segment_sliding", "unlimited_among_others"])
def test_dsmr_obeys_with_the_plainest_attention(name: str, claim: Claim) -> None:
    claim(subject_of(CASES[name], attention=plain), generator())


@pytest.mark.parametrize("claim", EVERY_CLAIM, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("name", ["two_scale", "no_multiples_of_a_segment_sliding"])
def test_dsmr_obeys_with_biases(name: str, claim: Claim) -> None:
    claim(subject_of(CASES[name], qk_bias=True), generator())


@st.composite
def schedules(draw: st.DrawFn, segment_tokens: int) -> HorizonSchedule:
    multiples = st.sampled_from((0, segment_tokens, 2 * segment_tokens))
    horizon = st.none() | multiples | st.integers(0, 2 * segment_tokens + 3)
    horizons = draw(st.lists(horizon, min_size=1, max_size=4))
    return HorizonSchedule(tuple(horizons), draw(st.sampled_from(("segment", "sliding"))))


@settings(max_examples=4, deadline=None)
@given(data=st.data(), segment_tokens=st.integers(4, 8), seed=st.integers(0, 2**31))
def test_dsmr_obeys_under_any_schedule(data: st.DataObject, segment_tokens: int, seed: int) -> None:
    subject = subject_of(data.draw(schedules(segment_tokens)), segment_tokens=segment_tokens)
    for claim in EVERY_CLAIM:
        claim(subject, torch.Generator().manual_seed(seed))


class SeesTheWholeSegment(DSMR):
    def _attention(self, q: Tensor) -> Attention:
        return lambda q, k, v, old_k, old_v, _: F.scaled_dot_product_attention(
            q, torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        )


class ForgetsOneTokenEarly(DSMR):
    def _attention(self, q: Tensor) -> Attention:
        attend = super()._attention(q)
        return lambda *tensors: attend(
            *tensors[:-1], dataclasses.replace(tensors[-1], horizon=max(0, (tensors[-1].horizon or 0) - 1))
        )


class TrimsBeforeAttending(DSMR):
    def _within_segment(
        self, tokens: Tensor, state: DSMRState, detach: bool, span_tokens: int | None
    ) -> tuple[Tensor, DSMRState]:
        length, horizons = tokens.shape[1], self.config.schedule.horizons
        after = state.position + length
        room = [max(0, self._slots(after, h, available=law.FAR) - length) for h in horizons]
        keys, values = (
            tuple(t[:, :, t.shape[2] - min(t.shape[2], n) :] for t, n in zip(kind, room))
            for kind in (state.keys, state.values)
        )
        return super()._within_segment(tokens, DSMRState(keys, values, state.position), detach, span_tokens)


class TrimsOneTokenTooFew(DSMR):
    def _slots(self, position: Tensor, horizon: int | None, *, available: int) -> int:
        return min(available, super()._slots(position, horizon, available=available) + 1)


class IgnoresRestarts(DSMR):
    def restart(self, state: DSMRState, lanes: Tensor) -> DSMRState:
        return state


class RestartsEveryLane(DSMR):
    def restart(self, state: DSMRState, lanes: Tensor) -> DSMRState:
        return super().restart(state, torch.ones_like(lanes))


class MixesItsLanes(DSMR):
    def embed(self, tokens: Tensor) -> Tensor:
        x = super().embed(tokens)
        return x + 1e-9 * x.mean(dim=0, keepdim=True)


class CountsInItsState(DSMR):
    def forward(self, tokens: Tensor, state: DSMRState, *, detach: bool = True) -> tuple[Tensor, DSMRState]:
        logits, after = super().forward(tokens, state, detach=detach)
        state.position.copy_(after.position)
        return logits, after._replace(position=state.position)


class HidesItsState(DSMR):
    hidden: DSMRState | None = None

    def forward(self, tokens: Tensor, state: DSMRState, *, detach: bool = True) -> tuple[Tensor, DSMRState]:
        remembered = state if self.hidden is None or not state.position.any() else self.hidden
        logits, after = super().forward(tokens, remembered, detach=detach)
        self.hidden = after
        return logits, after


class RotatesInSinglePrecision(DSMR):
    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        half = self.config.width // self.config.heads // 2
        angles = position[:, None, :, None].float() * (10_000.0 ** (-torch.arange(half).float() / half))
        return angles.cos().to(self.final_gain.dtype), angles.sin().to(self.final_gain.dtype)


class LetsGradientsThrough(DSMR):
    def forward(self, tokens: Tensor, state: DSMRState, *, detach: bool = True) -> tuple[Tensor, DSMRState]:
        return super().forward(tokens, state, detach=False)


@pytest.mark.parametrize(
    ("fault", "claim"),
    [
        (SeesTheWholeSegment, law.nothing_after_a_query_matters),
        (ForgetsOneTokenEarly, law.declared_reach_equals_the_one_measured_by_gradient),
        (TrimsBeforeAttending, law.any_chunking_gives_the_same_logits),
        (TrimsOneTokenTooFew, law.memory_is_what_is_declared),
        (IgnoresRestarts, law.a_restarted_lane_equals_a_fresh_one),
        (RestartsEveryLane, law.a_restarted_lane_equals_a_fresh_one),
        (MixesItsLanes, law.lanes_leak_nothing_into_each_other),
        (CountsInItsState, law.using_a_state_changes_nothing_in_it),
        (HidesItsState, law.an_old_state_can_be_used_again),
        (RotatesInSinglePrecision, law.only_relative_positions_matter),
        (LetsGradientsThrough, law.no_gradient_crosses_a_segments_start),
    ],
    ids=lambda part: part.__name__,
)
def test_the_law_catches_a_model_that(fault: type[DSMR], claim: Claim) -> None:
    with pytest.raises(AssertionError, match=r"\d"):
        claim(subject_of(SCHEDULES["two_scale"], kind=fault), generator())
