"""Perceivers obey the law; where they promise something other than DSMR, that is claimed here instead.

They are bound to every claim but one. Three things differ, and follow from latents that are computed again whenever the
window moves:

- Gradients do not end at a segment's start: they reach back to the first latent of the window, through latents that
  were computed again, where that happened in the same call; only what a state holds is detached.
- A state's bytes are not steady within a window: latents are held until the window has been read to its end, and are
  no part of the state when the next is about to begin. At segment starts the law's claim holds.
- ``attached`` is no way of reading that a Perceiver offers, for it trains on crops: here `Tensor.detach` is undone.
"""

from __future__ import annotations

import functools
from itertools import pairwise
from unittest import mock

import law
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from law import CLAIMS, Claim, Subject, resident_bytes
from perceivers_oracle import awake
from torch import Generator, Tensor

from ritornello import codec
from ritornello.horizons import HorizonSchedule
from ritornello.models.attention import Attention, plain
from ritornello.models.perceivers import Perceiver, PerceiverConfig, PerceiverState
from ritornello.models.protocol import named_tensors, nbytes

WIDTH = 16
config_of = functools.partial(PerceiverConfig, layers=1, width=WIDTH, heads=2, mlp_width=24)
CONFIGS = {
    "perceivers": config_of(context_tokens=13, latents=8, stride_tokens=4, scales=(None, 10)),
    "perceiver_ar": config_of(context_tokens=13, latents=8, stride_tokens=4, scales=(None,)),
    "short_look_first": config_of(context_tokens=13, latents=6, stride_tokens=3, scales=(8, None), layers=2),
    "latents_alone": config_of(context_tokens=9, latents=9, stride_tokens=3, scales=(None,)),
    "stride_of_all_latents": config_of(context_tokens=11, latents=4, stride_tokens=4, scales=(None, 7)),
    "stride_of_one": config_of(context_tokens=6, latents=3, stride_tokens=1, scales=(None, 4)),
}
MOST_CLAIMS = (*CLAIMS, law.declared_reach_equals_the_one_measured_by_gradient)
OF_SIZES = (  # what may depend on them; the rest is claimed of one config
    law.any_chunking_gives_the_same_logits,
    law.lanes_equal_lanes_read_alone,
    law.memory_is_what_is_declared,
    law.memory_does_not_depend_on_chunking,
    law.only_relative_positions_matter,
    law.declared_reach_equals_the_one_measured_by_gradient,
)


def generator() -> Generator:
    return torch.Generator().manual_seed(20_241_113)


def attached(model: Perceiver, tokens: Tensor, state: PerceiverState) -> tuple[Tensor, PerceiverState]:
    with mock.patch.object(Tensor, "detach", lambda tensor: tensor):
        return model(tokens, state)


def subject_of(
    config: PerceiverConfig,
    *,
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-11,
    far_tolerance: float = 1e-8,
    attention: Attention | None = None,
) -> Subject:
    """A tiny Perceiver with everything that the law wants to know, counted from what its windows show."""
    model = awake(config, dtype=dtype)
    model.attention = attention
    stride, size = config.stride_tokens, torch.finfo(dtype).bits // 8
    widths = [config.context_tokens if n is None else n for n in config.scales]

    def declared_bytes(position: int) -> int:
        """Of tokens since the window's first one, int32; of what looks and layers may still see, keys and values."""
        read = position % stride
        window = min(position, config.latents - stride + read)
        context = sum(min(position, n - stride + read) for n in widths)
        latents = window * config.layers if read else 0
        return window * 4 + (context + latents) * 2 * WIDTH * size

    return Subject(
        model=model,
        schedule=HorizonSchedule(tuple(n - stride for n in widths)),
        reading_tokens=max(widths) + 2 * stride + 3,
        tolerance=tolerance,
        far_tolerance=far_tolerance,
        declared_bytes=declared_bytes,
        full_bytes=(config.latents - stride) * 4 + sum(n - stride for n in widths) * 2 * WIDTH * size,
        first_reached=lambda position: max(0, (position // stride + 1) * stride - max(widths)),
        attached=lambda tokens, state: attached(model, tokens, state),
    )


BOUND = [
    *(("perceivers", claim) for claim in MOST_CLAIMS),
    *((name, claim) for name in CONFIGS if name != "perceivers" for claim in OF_SIZES),
    ("stride_of_all_latents", law.no_gradient_crosses_a_segments_start),  # there a window is a segment
]


@pytest.mark.parametrize(("name", "claim"), BOUND, ids=lambda part: getattr(part, "__name__", part))
def test_perceivers_obey(name: str, claim: Claim) -> None:
    claim(subject_of(CONFIGS[name]), generator())


@pytest.mark.parametrize("claim", [*OF_SIZES[:2], law.only_relative_positions_matter], ids=lambda c: c.__name__)
def test_perceivers_obey_in_single_precision(claim: Claim) -> None:
    config = CONFIGS["perceivers"]
    claim(subject_of(config, dtype=torch.float32, tolerance=2e-4, far_tolerance=2e-4), generator())


@pytest.mark.parametrize("claim", [OF_SIZES[0], OF_SIZES[-1]], ids=lambda claim: claim.__name__)
def test_perceivers_obey_with_the_plainest_attention(claim: Claim) -> None:
    claim(subject_of(CONFIGS["perceivers"], attention=plain), generator())


@st.composite
def configs(draw: st.DrawFn) -> PerceiverConfig:
    stride = draw(st.integers(2, 5))
    latents = stride * draw(st.integers(1, 3))
    context = latents + draw(st.integers(0, 9))
    scales = draw(st.lists(st.none() | st.integers(latents, context), min_size=1, max_size=3))
    layers = draw(st.integers(1, 2))
    sizes = {"context_tokens": context, "latents": latents, "stride_tokens": stride, "layers": layers}
    return config_of(scales=tuple(scales), **sizes)


@settings(max_examples=4, deadline=None)
@given(config=configs(), claim=st.sampled_from(MOST_CLAIMS), seed=st.integers(0, 2**31))
def test_perceivers_obey_of_any_sizes(config: PerceiverConfig, claim: Claim, seed: int) -> None:
    claim(subject_of(config), torch.Generator().manual_seed(seed))


# ---- what differs ----


@pytest.mark.parametrize("name", ["perceivers", "short_look_first"])
def test_gradients_reach_back_to_the_windows_first_latent(name: str) -> None:
    """Exactly, if the text is read at once; in chunks never further, and states carry none."""
    config = CONFIGS[name]
    subject, n, stride = subject_of(config), 29, config.stride_tokens
    queries = (0, stride, 11, 12, 28)
    text = torch.randperm(codec.N_EVENTS, generator=generator())[None, :n]

    def reached(logits: Tensor, query: int) -> list[int]:
        (gradient,) = torch.autograd.grad(
            logits[0, query].square().sum(), subject.model.embedding.weight, retain_graph=True
        )
        return gradient[text[0]].any(1).nonzero().flatten().tolist()

    def window(query: int) -> list[int]:
        return list(range(max(0, (query // stride + 1) * stride - config.latents), query + 1))

    whole, _ = subject.model(text, subject.model.initial_state(1))
    for query in queries:
        assert reached(whole, query) == window(query)
    state, parts = subject.model.initial_state(1), []
    for chunk in text.split([5, 6, 1, 9, 8], dim=1):
        logits, state = subject.model(chunk, state)
        assert not any(tensor.requires_grad for tensor in named_tensors(state).values())
        parts.append(logits)
    for query in queries:
        assert set(reached(torch.cat(parts, dim=1), query)) <= set(window(query))


def test_bytes_rise_within_a_window_and_fall_when_it_has_been_read() -> None:
    """Counted by hand: 4 per token of the window, 32 per key and value of the one look and of the one layer."""
    config = PerceiverConfig(
        layers=1, width=4, heads=1, mlp_width=4, context_tokens=8, latents=4, scales=(None,), stride_tokens=2
    )
    model = awake(config, dtype=torch.float32)
    state, found = model.initial_state(1), []
    for token in range(12):
        found.append(nbytes(state))
        assert resident_bytes(state) == found[-1]
        _, state = model(torch.tensor([[token]]), state)
    empty, full_at_a_start, full_within = 0, 2 * 4 + 6 * 32, 3 * 4 + 7 * 32 + 3 * 32
    assert found == [
        empty,
        1 * 4 + 1 * 32 + 1 * 32,
        2 * 4 + 2 * 32,
        3 * 4 + 3 * 32 + 3 * 32,
        2 * 4 + 4 * 32,
        3 * 4 + 5 * 32 + 3 * 32,
        full_at_a_start,
        full_within,
        full_at_a_start,
        full_within,
        full_at_a_start,
        full_within,
    ]


def test_a_window_of_one_stride_has_no_latents_to_compute_again() -> None:
    """So its states hold no tokens where they are smallest, and otherwise those of the segment alone."""
    config = CONFIGS["stride_of_all_latents"]
    model = awake(config)
    state, held = model.initial_state(1), []
    for token in range(25):
        _, state = model(torch.tensor([[token]]), state)
        held.append(state.tokens.shape[1])
    assert held == [n % config.stride_tokens for n in range(1, 26)]
    assert any(b < a for a, b in pairwise(held))
