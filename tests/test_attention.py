"""Attention: two ways compute what a plain loop over visible keys computes, and nobody pays for what is unseen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ritornello.horizons import Rule
from ritornello.models import tiles
from ritornello.models.attention import Attention, AttentionSpan, fastest, plain, tiled

FAR = 1_000_000
HEAD_SIZE = 4
GARBAGE = 1e30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A chunk of some lanes and their memories; the most keys of a tile."""

    span: AttentionSpan
    heads: int = 2
    tile_keys: int = 3
    seed: int = 0

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """q, k, v and the memories, laid out as the model's are; slots before the piece hold numbers too."""
        generator = torch.Generator().manual_seed(self.seed)
        lanes = len(self.span.position)
        shapes = [(lanes, n, self.heads, HEAD_SIZE) for n in [self.span.queries] * 3 + [self.span.memories] * 2]
        return [2 * torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Lanes at starts, shortly after them and far away; neighbours at alike and at different places."""
    s = draw(st.integers(1, 9))
    segments = st.sampled_from((0, 1, 2, 5, FAR // s))
    places = st.lists(st.tuples(segments, st.integers(0, s - 1)), min_size=1, max_size=2)
    position = [segment * s + phase for segment, phase in draw(places)]
    position = draw(st.permutations(position * draw(st.integers(1, 2))))
    queries = draw(st.integers(1, s - max(p % s for p in position)))
    memories, horizon = draw(st.integers(0, 25)), draw(st.none() | st.integers(0, 25))
    rule: Rule = draw(st.sampled_from(("segment", "sliding")))
    return Case(
        AttentionSpan(torch.tensor(position), queries, memories, horizon, s, rule),
        heads=draw(st.integers(1, 2)),
        tile_keys=draw(st.sampled_from((1, 2, 3, 7, 64))),
        seed=draw(st.integers(0, 1 << 30)),
    )


@contextmanager
def tiles_of(keys: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "TILE_NUMBERS", 1)
        for name in ("MIN_TILE_KEYS", "BLOCK_TOKENS", "MASKED_KEYS"):
            patch.setattr(tiles, name, keys)
        forget_plans()
        yield
    forget_plans()


def forget_plans() -> None:
    """What was planned for parts of another size."""
    tiles.memory_parts.cache_clear()
    tiles.chunk_parts.cache_clear()


def sees(span: AttentionSpan, query: int, key: int) -> bool:
    """The sentences of "What a query sees"; a position before the piece is no key."""
    start = (query // span.segment_tokens) * span.segment_tokens
    if span.horizon is None:
        first = 0
    elif span.rule == "segment":
        first = start - span.horizon
    else:
        first = min(start, query - span.horizon)
    return max(0, first) <= key <= query


def seen_by(span: AttentionSpan, lane: int) -> Tensor:
    """(T, K) bool."""
    position = int(span.position[lane])
    keys = range(position - span.memories, position + span.queries)
    return torch.tensor([[sees(span, position + i, key) for key in keys] for i in range(span.queries)])


def brute_force(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, span: AttentionSpan) -> Tensor:
    """Lane by lane and query by query, over the keys that it sees and no others."""
    keys, values = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
    lanes = []
    for lane in range(len(q)):
        found = []
        for i, seen in enumerate(seen_by(span, lane)):
            scores = (keys[lane][:, seen] * q[lane, :, i, None]).sum(-1) / math.sqrt(q.shape[-1])
            shares = (scores - scores.amax(-1, keepdim=True).detach()).exp()
            found.append((shares[:, :, None] * values[lane][:, seen]).sum(1) / shares.sum(-1, keepdim=True))
        lanes.append(torch.stack(found, dim=1))
    return torch.stack(lanes)


def computed(
    attend: Attention, tensors: list[Tensor], span: AttentionSpan, towards: Tensor, *, attached: bool = False
) -> dict[str, Tensor]:
    """What the queries find, and in a direction of it the gradients of q, k, v, and of attached memories."""
    names = ("q", "k", "v", *(("memory_k", "memory_v") if attached else ()))
    given = [t.clone() for t in tensors]
    learning = [t.requires_grad_() for t in given[: len(names)]]
    found = attend(*given, span)
    # A memory without slots may be left out altogether.
    gradients = torch.autograd.grad((found * towards).sum(), learning, allow_unused=True, materialize_grads=True)
    return {"found": found.detach(), **{f"gradient of {name}": g for name, g in zip(names, gradients)}}


def towards_all(q: Tensor) -> Tensor:
    return torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=q.dtype)


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, expected in other.items():
        apart = (one[name].double() - expected.double()).abs()
        assert (apart <= tolerance).all(), f"{name}: {apart.max():.2g} apart"


# They compute the same.


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_attention_is_that_of_a_loop_over_visible_keys(case: Case, attached: bool) -> None:
    tensors = case.tensors()
    towards = towards_all(tensors[0])
    expected = computed(brute_force, tensors, case.span, towards, attached=attached)
    with tiles_of(case.tile_keys):
        assert_near(computed(tiled, tensors, case.span, towards, attached=attached), expected, 1e-11)
    assert_near(computed(plain, tensors, case.span, towards, attached=attached), expected, 1e-11)


@pytest.mark.parametrize(("horizon", "rule"), [(None, "segment"), (1050, "segment"), (901, "sliding")])
def test_tiles_of_full_size_stay_accurate_in_single_precision(horizon: int | None, rule: Rule) -> None:
    case = Case(AttentionSpan(torch.tensor([450, 450 + 150 * 9, 3 * 150]), 100, 1100, horizon, 150, rule), heads=1)
    tensors = case.tensors(torch.float32)
    towards = towards_all(tensors[0])
    expected = computed(brute_force, [t.double() for t in tensors], case.span, towards.double())
    assert_near(computed(tiled, tensors, case.span, towards), expected, 2e-5)


# What is not seen does not matter.


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_garbage_that_a_query_does_not_see_changes_nothing_of_its_own(case: Case, data: st.DataObject) -> None:
    """Bitwise: what it finds, its gradient, and the gradients (none) of what it does not see."""
    i = data.draw(st.integers(0, case.span.queries - 1))
    clean = case.tensors(torch.float32)
    dirty = with_garbage(clean, case.span, i)
    towards = torch.zeros_like(clean[0])
    towards[:, :, i] = towards_all(clean[0])[:, :, i]
    with tiles_of(case.tile_keys):
        before, after = (computed(tiled, tensors, case.span, towards, attached=True) for tensors in (clean, dirty))
    for name in ("found", "gradient of q"):
        assert torch.equal(after.pop(name)[:, :, i], before.pop(name)[:, :, i]), name
    for lane in range(len(towards)):
        unseen = ~seen_by(case.span, lane)[i]
        of_memory, of_chunk = unseen[: case.span.memories], unseen[case.span.memories :]
        for name, gradient in after.items():
            assert torch.equal(gradient[lane], before[name][lane]), name
            assert not gradient[lane][:, of_memory if "memory" in name else of_chunk].any(), name


@pytest.mark.parametrize(("horizon", "rule"), [(0, "segment"), (5, "segment"), (5, "sliding"), (None, "sliding")])
def test_garbage_that_a_query_does_not_see_changes_nothing(horizon: int | None, rule: Rule) -> None:
    case = Case(AttentionSpan(torch.tensor([0, 8, FAR + 2]), 4, 9, horizon, 6, rule))
    clean = case.tensors(torch.float32)
    with torch.no_grad():
        expected = plain(*clean, case.span)
        for i in range(case.span.queries):
            assert torch.equal(plain(*with_garbage(clean, case.span, i), case.span)[:, :, i], expected[:, :, i])


def with_garbage(tensors: list[Tensor], span: AttentionSpan, query: int) -> list[Tensor]:
    """Huge numbers of either sign in all keys and values that a query does not see."""
    dirty = [t.clone() for t in tensors]
    for lane in range(len(span.position)):
        unseen = ~seen_by(span, lane)[query]
        of_memory, of_chunk = unseen[: span.memories], unseen[span.memories :]
        for tensor, columns in zip(dirty[1:], (of_chunk, of_chunk, of_memory, of_memory)):
            tensor[lane, :, columns] = tensor[lane, :, columns].sign() * GARBAGE
    return dirty


@settings(max_examples=60, deadline=None)
@given(cases())
def test_tiles_do_not_even_read_slots_that_no_query_sees(case: Case) -> None:
    """Not a number in them changes nothing, bitwise; within a tile it would, as a value of weight zero."""
    clean = case.tensors()
    dirty = [t.clone() for t in clean]
    for lane in range(len(case.span.position)):
        unseen = ~seen_by(case.span, lane).any(0)[: case.span.memories]
        for memory in dirty[3:]:
            memory[lane, :, unseen] = math.nan
    towards = towards_all(clean[0])
    with tiles_of(case.tile_keys):
        before, after = (computed(tiled, tensors, case.span, towards, attached=True) for tensors in (clean, dirty))
    for name, expected in before.items():
        assert torch.equal(after[name], expected), name


# What is not seen costs nothing.


@settings(max_examples=150, deadline=None)
@given(cases())
def test_parts_hold_every_visible_score_once_and_end_where_the_span_ends(case: Case) -> None:
    span, t, m = case.span, case.span.queries, case.span.memories
    with tiles_of(case.tile_keys):
        groups = span.groups()
        blocks, earlier = tiles.chunk_parts(t)
    assert [lane for group in groups for lane in range(group.lanes.start, group.lanes.stop)] == [
        *range(len(span.position))
    ]
    assert t % blocks == 0
    causal = [slice(start, start + t // blocks) for start in range(0, t, t // blocks)]
    for group in groups:
        held = torch.zeros(t, m + t, dtype=torch.int64)
        for block in causal:
            size = block.stop - block.start
            held[block, m + block.start : m + block.stop] += torch.ones(size, size, dtype=torch.int64).tril()
        for parts, offset in ((group.memory, 0), (earlier, m)):
            for part in parts:
                at = slice(part.keys.start + offset, part.keys.stop + offset)
                shape = held[part.queries, at].shape
                seen = torch.ones(shape, dtype=torch.bool) if part.seen is None else part.seen
                held[part.queries, at] += seen
                assert part.seen is None or shape[1] <= case.tile_keys
                assert part.seen is None or not part.seen.all(), "a mask that masks nothing"
                assert seen.any(1).all(), "a query sees nothing of its part"
                assert all(edge.any() for edge in (seen[:, 0], seen[:, -1])), "an edge unseen"
        for lane in range(group.lanes.start, group.lanes.stop):
            assert torch.equal(held, seen_by(span, lane).long())


class Products(TorchDispatchMode):
    """Counts the multiplications of attention's matrix products; remembers how many numbers the largest gave."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in ("aten::bmm", "aten::baddbmm_"):
            a, b = args[-2:]
            self.multiplications += a.numel() * b.shape[2]
            self.largest = max(self.largest, a.shape[0] * a.shape[1] * b.shape[2])
        elif name == "aten::_scaled_dot_product_flash_attention_for_cpu":
            self.multiplications += 2 * args[0].numel() * args[1].shape[2]
        elif name == "aten::_scaled_dot_product_flash_attention_for_cpu_backward":
            self.multiplications += 5 * args[1].numel() * args[2].shape[2]
        return func(*args, **(kwargs or {}))


# Of 256 queries in parts of 64. The chunk: 64 keys for 256, 192, 128 and 64 queries; without parts it were 65,536.
CHUNK = 64 * (256 + 192 + 128 + 64)


@pytest.mark.parametrize(
    ("positions", "memories", "horizon", "rule", "of_memory"),
    [
        ([FAR * 256], 256, 256, "segment", 256 * 256),
        ([FAR * 256], 256, None, "segment", 256 * 256),
        ([FAR * 256], 256, 100, "segment", 256 * 100),
        ([FAR * 256], 256, 0, "segment", 0),
        ([FAR * 256], 256, 0, "sliding", 0),
        ([FAR * 256], 256, 128, "sliding", 128 * 64 + 64 * 64),  # the two further tiles are seen by nobody
        ([FAR * 256], 256, 100, "sliding", 100 * 64 + 36 * 36),
        ([FAR * 256], 0, None, "segment", 0),
        ([0], 256, 256, "segment", 0),  # all slots lie before the piece
        ([256], 600, None, "segment", 256 * 256),
        ([0, FAR * 256, 0], 256, 256, "segment", 256 * 256),
        ([512, FAR * 256], 256, 128, "sliding", 2 * (128 * 64 + 64 * 64)),
    ],
    ids=str,
)
def test_only_tiles_that_are_seen_are_multiplied(
    positions: list[int], memories: int, horizon: int | None, rule: Rule, of_memory: int
) -> None:
    """Forward twice (scores, values); backward five times for the chunk, three times for detached memories."""
    case = Case(AttentionSpan(torch.tensor(positions), 256, memories, horizon, 256, rule), heads=3)
    q, k, v, *rest = case.tensors(torch.float32)
    chunk, numbers = CHUNK * len(positions), 3 * HEAD_SIZE
    with tiles_of(64):
        with Products() as forward:
            found = tiled(*(t.requires_grad_() for t in (q, k, v)), *rest, case.span)
        assert forward.multiplications == 2 * (chunk + of_memory) * numbers
        with Products() as backward:
            found.sum().backward()
        assert backward.multiplications == (5 * chunk + 3 * of_memory) * numbers
        assert [t.grad for t in rest] == [None, None]


def test_lanes_that_see_alike_are_computed_together() -> None:
    def together(*positions: int) -> list[tuple[int, int]]:
        groups = AttentionSpan(torch.tensor(positions), 3, 9, 7, 8, "segment").groups()
        return [(group.lanes.start, group.lanes.stop) for group in groups]

    assert together(8 * 2 + 1, 8 * 5 + 1, 8 * FAR + 1) == [(0, 3)]  # of 9 slots none lies before the piece
    assert together(8 * 2 + 1, 8 * 5 + 2, 8 * 9 + 2) == [(0, 1), (1, 3)]  # other phases
    assert together(0, 0, 1, 8 * 4, 0) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_a_tile_holds_no_more_scores_than_the_cache_unless_it_would_be_too_narrow() -> None:
    def widest(heads: int, queries: int) -> int:
        span = AttentionSpan(torch.tensor([16 * 512]), queries, 1500, None, 512, "segment")
        q, k, v, *memory = Case(span, heads).tensors(torch.float32)
        found = tiled(q.requires_grad_(), k, v, *memory, span)
        with Products() as backward:
            found.sum().backward()
        return backward.largest // (heads * queries)

    assert widest(heads=4, queries=512) == 128  # 2^18 scores / (4 heads x 512 queries)
    assert widest(heads=3, queries=400) == 192  # 218, in steps of 64
    assert widest(heads=1, queries=8) == 1024
    assert widest(heads=16, queries=512) == 64


def test_memories_of_another_precision_are_read_in_that_of_the_queries() -> None:
    """A state made under autocast may be read without it."""
    q, k, v, memory_k, memory_v = (torch.randn(1, 2, 4, 8) for _ in range(5))
    span = AttentionSpan(torch.tensor([4]), 4, 4, None, 4, "segment")
    rounded = memory_k.bfloat16(), memory_v.bfloat16()
    found = tiled(q, k, v, *rounded, span)
    torch.testing.assert_close(found, plain(q, k, v, *rounded, span))


@pytest.mark.parametrize("attached", [False, True])
def test_half_precision_is_attended_to_as_well_as_its_numbers_allow(attached: bool) -> None:
    given = [torch.randn(2, 2, n, 16).bfloat16() for n in (8, 8, 8, 40, 40)]
    span, found = AttentionSpan(torch.tensor([48, 8]), 8, 40, 24, 8, "segment"), []
    for attend, kind in ((tiled, torch.bfloat16), (plain, torch.float32)):
        tensors = [x.detach().to(kind).requires_grad_(attached or i < 3) for i, x in enumerate(given)]
        attended = attend(*tensors, span)
        attended.float().square().sum().backward()
        found.append([attended, *(x.grad for x in tensors if x.requires_grad)])
        assert {x.dtype for x in found[-1]} == {kind}
    for ours, theirs in zip(*found):
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_a_gradient_for_one_memory_alone_is_not_dropped() -> None:
    q, k, v, memory_k, memory_v = (torch.randn(1, 2, 4, 8) for _ in range(5))
    span = AttentionSpan(torch.tensor([4]), 4, 4, None, 4, "segment")
    grads = []
    for attend in (tiled, plain):
        attached = memory_v.clone().requires_grad_()
        attend(q, k, v, memory_k, attached, span).square().sum().backward()
        grads.append(attached.grad)
    torch.testing.assert_close(*grads)


def test_a_torch_without_the_flash_operators_is_served_by_the_reference(monkeypatch):
    q = torch.zeros(1, 2, 8, 4)
    assert fastest(q) is tiled
    monkeypatch.setattr(tiles, "AVAILABLE", False)
    assert fastest(q) is plain
