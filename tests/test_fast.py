"""The fast path, as far as a CPU can tell: its feed, masks, shapes, losses, compilations and gate."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from short_runs import RECIPE, losses
from tiny import SEGMENT_TOKENS, made_up_tokens, tiny_config, write_corpus
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.codec import steering
from ritornello.corpus import Corpus
from ritornello.feed import Augmentation, Lanes
from ritornello.feed.packing import AHEAD, TOKEN, PackedLanes
from ritornello.horizons import HorizonSchedule, visible
from ritornello.models.dsmr import DSMR, DSMRState
from ritornello.models.protocol import named_tensors
from ritornello.training import fast, loop, readers
from ritornello.training.fast import BLOCK, TOLERANCES, Fast, FastModel, Mask, errors, refusal, sent, unpacked
from ritornello.training.recipes import recipe_named

CPU = torch.device("cpu")
MODEL = tiny_config(qk_bias=True, motif_notes=50)
PLAIN = replace(RECIPE, model=MODEL, interleave=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Pieces shorter than a segment and longer than the longest horizon."""
    pieces = {"train": made_up_tokens(1, 20, 1, 30, 14, 25), "validation": made_up_tokens(2, 6, 40, 1)}
    return write_corpus(tmp_path_factory.mktemp("fast") / "corpus", pieces)


# The feed.


def lanes(corpus: Corpus, kind: Any = Lanes, **options: Any) -> Any:
    moved = Augmentation(semitones=3, stretch=0.1)
    how = {"lanes": 3, "segment_tokens": SEGMENT_TOKENS, "augmentation": moved, "grammar": True} | options
    return kind(corpus, "train", **how)


def assert_same_batch(packed: Any, batch: Any) -> None:
    """Everything that a plain batch tells a model and its loss, from the bytes that go to a device."""
    rows, position = sent(packed, CPU)
    assert rows.shape == (*batch.targets.shape, 48)
    assert torch.equal(position, torch.from_numpy(batch.position))
    assert packed.group == batch.group
    ids = fast._ids(rows, "input").numpy()
    assert np.array_equal(ids[..., : batch.inputs.shape[-1]] if batch.inputs.ndim == 3 else ids[..., 0], batch.inputs)
    assert np.array_equal(fast._ids(rows, "target")[..., 0].numpy(), batch.targets)
    assert np.array_equal(packed.rows.view(TOKEN)["target"][..., 0], batch.targets)
    assert packed.tokens == batch.tokens
    if batch.context is not None:
        for name, found, expected in zip(codec.Context._fields, unpacked(rows), batch.context):
            assert np.array_equal(found.numpy(), expected), name


@pytest.mark.parametrize(
    "options", [{}, {"interleave": 2}, {"balance_titles": True}, {"grammar": False}, {"piece_tokens": 40}]
)
@pytest.mark.parametrize("motif_notes", [0, 50])
def test_packed_batches_are_the_plain_ones(corpus: Corpus, options: dict[str, Any], motif_notes: int) -> None:
    plain = lanes(corpus, motif_notes=motif_notes, **options)
    packed = lanes(corpus, PackedLanes, workers=0, motif_notes=motif_notes, **options)
    for _ in range(60):  # several epochs
        assert_same_batch(next(packed), next(plain))
        assert packed.state() == plain.state()


def test_packed_batches_tell_labels(corpus: Corpus) -> None:
    how = {"motif_notes": 50, "labels": steering.labels(("Bach",), ("made up",)), "label_share": 0.6}
    plain, packed = lanes(corpus, **how), lanes(corpus, PackedLanes, workers=0, **how)
    told = 0
    for _ in range(30):
        batch = next(plain)
        assert_same_batch(next(packed), batch)
        told += batch.inputs[..., -steering.COLUMNS :].any()
    assert told > 20


def test_idle_lanes_and_the_end_of_a_finite_feed_are_the_plain_ones(corpus: Corpus) -> None:
    how = {"shuffle": False, "epochs": 1, "lanes": 4, "motif_notes": 50}
    packed, plain = (
        list(lanes(corpus, kind, **how, **more)) for kind, more in ((PackedLanes, {"workers": 0}), (Lanes, {}))
    )
    assert len(packed) == len(plain)
    for one, other in zip(packed, plain):
        assert_same_batch(one, other)


def test_processes_make_the_same_batches_ahead_and_go_on_from_a_saved_state(corpus: Corpus) -> None:
    plain = lanes(corpus, motif_notes=50)
    for batch in islice(lanes(corpus, PackedLanes, workers=2, motif_notes=50), 25):
        assert_same_batch(batch, next(plain))
    resumed = lanes(corpus, PackedLanes, workers=1, motif_notes=50)
    resumed.restore(plain.state())
    for batch in islice(resumed, 10):
        assert_same_batch(batch, next(plain))


def test_lanes_of_several_processes_are_dealt_from_one_order(corpus: Corpus) -> None:
    """Two that hear of the lengths of what the other begins; each makes ahead what its own lanes take."""
    whole = lanes(corpus, PackedLanes, workers=0, lanes=5, interleave=2)

    def exchange(_: dict[int, int]) -> dict[int, int]:
        begun = [5 * expected.group + i for i in np.flatnonzero(expected.position == 0)]
        return {i: whole._lanes[i].length for i in begun}

    parts, how = (slice(0, 2), slice(2, 5)), {"lanes": 5, "interleave": 2, "workers": 1, "exchange": exchange}
    shares = [lanes(corpus, PackedLanes, share=part, **how) for part in parts]
    for _ in range(30):
        expected = next(whole)
        found = [next(feed) for feed in shares]
        assert np.array_equal(np.concatenate([batch.rows for batch in found]), expected.rows)
        assert {batch.tokens for batch in found} == {expected.tokens}
        assert all(feed.state() == whole.state() for feed in shares)


def test_a_killed_process_is_one_line(corpus: Corpus) -> None:
    feed = lanes(corpus, PackedLanes, workers=1)
    next(feed)
    for process in feed._pool._processes:
        os.kill(process, signal.SIGKILL)
    with one_line("was killed", "memory"):
        list(islice(feed, 100))


def test_pieces_are_made_ahead_and_an_epoch_is_ordered_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = lanes(corpus, PackedLanes, workers=1)
    next(feed)
    order, ordered = feed._order_of, []
    monkeypatch.setattr(feed, "_order_of", lambda epoch: ordered.append(epoch) or order(epoch))
    for _ in range(40):
        next(feed)
        assert len(set(islice(feed._coming(), AHEAD)) - set(feed._prefetched)) <= 1  # until another is asked for
    assert ordered[-1] > 4
    assert all(ordered.count(epoch) <= 2 for epoch in ordered)  # as a later one, and as the present one


def test_a_script_that_cannot_be_imported_again_is_one_line_and_no_wait_for_ever(tmp_path: Path) -> None:
    """From standard input: processes end before they have read what they are sent, of a corpus of any size."""
    write_corpus(tmp_path / "corpus", {"train": made_up_tokens(1, *[1] * 2000)})
    script = """if True:
        from ritornello.corpus import Corpus
        from ritornello.feed.packing import PackedLanes
        next(PackedLanes(Corpus.open("corpus"), "train", workers=2, lanes=1, segment_tokens=8))
    """
    found = subprocess.run([sys.executable], input=script, cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("ritornello.errors.RitornelloError: worker processes cannot start")


# Masks.


@st.composite
def sights(draw: st.DrawFn) -> tuple[Any, list[int], list[int]]:
    """A horizon of a rule, where lanes stand (at starts, near them and far away), and parts of it that may be seen."""
    tokens = draw(st.sampled_from((BLOCK, 2 * BLOCK, 3 * BLOCK)))
    horizon = draw(st.sampled_from((0, BLOCK, 2 * BLOCK, 5 * BLOCK)) | st.integers(1, 5 * BLOCK))
    rule = draw(st.sampled_from(("segment", "sliding")))
    segments = draw(st.lists(st.integers(0, 8) | st.just(10_000), min_size=1, max_size=4))
    config = tiny_config(schedule=HorizonSchedule((horizon,), rule), segment_tokens=tokens)
    return config, [segment * tokens for segment in segments], draw(st.lists(st.integers(0, 6 * BLOCK), max_size=3))


def seen_by(config: Any, positions: list[int], span: int | None = None) -> Tensor:
    """(B, T, K) bool, by the rule itself."""
    (horizon,), tokens = config.schedule.horizons, config.segment_tokens
    query = torch.tensor(positions)[:, None, None] + torch.arange(tokens)[:, None]
    key = torch.tensor(positions)[:, None, None] + torch.arange(-horizon, tokens)
    rule = config.schedule.rule
    seen = horizon if span is None else min(horizon, span)
    return visible(query, key, horizon=seen, segment_tokens=tokens, rule=rule)  # type: ignore[no-any-return]


def listed(numbers: Tensor, columns: Tensor, width: int) -> Tensor:
    """(B, R, width) bool: the blocks that a list of a block mask names."""
    assert columns.min() >= 0
    assert columns.max() < width
    named = torch.zeros(*columns.shape[:1], columns.shape[2], width, dtype=torch.bool)
    for lane, row in np.ndindex(named.shape[:2]):
        named[lane, row, columns[lane, 0, row, : numbers[lane, 0, row]].long()] = True
    return named


@settings(max_examples=60, deadline=None)
@given(sights())
def test_block_masks_name_the_blocks_that_the_rule_sees(case: tuple[Any, list[int], list[int]]) -> None:
    config, positions, spans = case
    (horizon,), tokens = config.schedule.horizons, config.segment_tokens
    mask = Mask(config, horizon, len(positions), CPU, spans=spans, dense=False)
    mask.move(torch.tensor(positions) + tokens)
    span = spans[0] if spans else None
    mask.move(torch.tensor(positions), span)
    seen = seen_by(config, positions, span)
    rows, columns = tokens // BLOCK, -(-(horizon + tokens) // BLOCK)
    keys = torch.nn.functional.pad(seen, (0, columns * BLOCK - seen.shape[2]))
    blocks = keys.view(len(positions), rows, BLOCK, columns, BLOCK)
    some = blocks.any(4).any(2)
    block_mask = mask.mask
    partial_, full = (
        listed(getattr(block_mask, f"{kind}_num_blocks"), getattr(block_mask, f"{kind}_indices"), columns)
        for kind in ("kv", "full_kv")
    )
    assert torch.equal(partial_ | full, some)
    assert not (full & ~blocks.all(4).all(2)).any()  # nothing unseen is taken as seen
    assert not (partial_ & blocks.all(4).all(2)).any()  # and no block is masked for nothing
    # Element by element within the blocks that are not full.
    lane, query, key = torch.meshgrid(*map(torch.arange, seen.shape), indexing="ij")
    assert torch.equal(block_mask.mask_mod(lane, None, query, key), seen)
    dense = Mask(config, horizon, len(positions), CPU, dense=True)
    dense.move(torch.tensor(positions), span)
    assert torch.equal(dense.mask[:, 0], seen)
    # For gradients of keys: all blocks of the segment's own keys, none of memories alone.
    q, full_q = (
        listed(getattr(block_mask, f"{kind}_num_blocks"), getattr(block_mask, f"{kind}_indices"), rows)
        for kind in ("q", "full_q")
    )
    own = torch.arange(columns) * BLOCK + BLOCK > horizon
    assert torch.equal((q | full_q)[:, own], some.mT[:, own])
    assert not (q | full_q)[:, ~own].any()
    assert not (full_q & ~full.mT).any()


# The same losses as the plain way.


def by_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this test go the fast way, uncompiled, with dense masks."""
    monkeypatch.setattr(loop, "reader_of", partial(Fast, workers=0, compiled=False))


def assert_near(one: Path, other: Path, steps: int) -> None:
    a, b = losses(one), losses(other)
    assert [entry[:2] for entry in a] == [entry[:2] for entry in b]
    assert a[-1][0] >= steps
    assert np.allclose([nats for *_, nats in a], [nats for *_, nats in b], rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "recipe",
    [
        PLAIN,
        replace(PLAIN, label_share=0.6),
        replace(PLAIN, legal=False, interleave=1, model=tiny_config(schedule=HorizonSchedule((40, 0)))),
        replace(PLAIN, model=tiny_config(schedule=HorizonSchedule((37, 16), "sliding"))),
        replace(PLAIN, horizon_warmup_share=0.6, elastic_share=0.7),
    ],
    ids=["biases and hints, two groups", "labels", "free", "sliding", "memories seen in part"],
)
def test_losses_and_validations_are_those_of_the_plain_loop(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Any
) -> None:
    how: dict[str, Any] = {"steps": 20, "device": CPU, "precision": "fp32"}
    recipe = replace(recipe, validate_every_steps=7)
    loop.train(corpus, tmp_path / "plain", recipe, **how)
    by_fast(monkeypatch)
    loop.train(corpus, tmp_path / "fast", recipe, **how)
    assert_near(tmp_path / "fast", tmp_path / "plain", 20)


@pytest.mark.parametrize("first", ["fast", "plain"])
def test_a_run_goes_on_with_the_other_way(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As one that never changed; what both save is alike, weights in float32."""

    def trained(folder: str, *ways: str) -> Path:
        for steps, way in zip((11, 20), ways):
            with monkeypatch.context() as patch:
                if way == "fast":
                    by_fast(patch)
                how: dict[str, Any] = {"steps": steps, "resume": steps == 20, "device": CPU, "precision": "fp32"}
                loop.train(corpus, tmp_path / folder, PLAIN, **how)
        return tmp_path / folder

    trained("run", first, {"fast": "plain", "plain": "fast"}[first])
    trained("whole", "plain", "plain")
    last, whole = (load_checkpoint(tmp_path / name / "last") for name in ("run", "whole"))
    assert last.run["feed"] == whole.run["feed"]
    assert {name: (t.shape, t.dtype) for name, t in last.tensors().items()} == {
        name: (t.shape, torch.float32) for name, t in whole.tensors().items()
    }
    assert_near(tmp_path / "run", tmp_path / "whole", 20)


def test_memories_are_in_half_precision_and_have_whole_horizons_from_the_start(corpus: Corpus) -> None:
    """But what is saved is no more than what is filled."""
    model = DSMR(MODEL)
    reader = Fast(model, corpus, replace(PLAIN, interleave=1), 0, "bf16", workers=0, compiled=False)
    (first,) = reader._states
    assert {tensor.numel() for name, tensor in reader.tensors().items() if name != "position"} == {0}
    read = []
    for batch in islice(reader.feed, 7):
        reader.nats(batch, 0.0).sum().backward()
        (now,) = reader._states
        read.append(int(now.position.max()))
        for name, tensor in named_tensors(now).items():
            before = named_tensors(first)[name]
            assert (tensor.shape, tensor.stride(), tensor.requires_grad) == (before.shape, before.stride(), False)
            if name != "position":
                horizon, saved = MODEL.horizons[int(name.split("/")[1])], reader.tensors()[name]
                assert (tensor.shape[2], tensor.dtype) == (horizon, torch.bfloat16)
                assert torch.equal(saved, tensor[:, :, horizon - min(horizon, read[-1]) :])
    assert read[0] < min(MODEL.horizons) + 1
    assert max(read) > max(MODEL.horizons)
    assert all(p.grad is not None and p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    share = torch.tensor(0.25)
    dropout = fast.Dropout(share)
    torch.manual_seed(0)
    found = dropout(torch.ones(400, 400))
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.equal(found[found != 0], torch.full_like(found[found != 0], 1 / 0.75))
    assert torch.equal(dropout.eval()(torch.ones(3)), torch.ones(3))


# What is compiled, and for what shapes and devices.


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """Functions are traced with their gradients and not made faster; the counter counts them."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


@pytest.mark.filterwarnings("ignore")
def test_lanes_that_end_and_begin_compile_nothing_anew(
    corpus: Corpus, compiler: CompileCounterWithBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three functions, the layer for two horizons; no break in any (``fullgraph``); validations once more."""
    monkeypatch.setattr(fast, "Mask", lambda *a, **how: Mask(*a, **how | {"dense": False}))
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # a CPU's gradients: refused, not missing
    config = replace(MODEL, segment_tokens=BLOCK, schedule=HorizonSchedule((2 * BLOCK, BLOCK)), dropout=0.1)
    recipe = replace(PLAIN, model=config, lanes=2, elastic_share=0.5)
    model = DSMR(config).train()
    reader = Fast(model, corpus, recipe, 0, "bf16", workers=0)
    begun, frames = set(), []
    for step, batch in enumerate(islice(reader.feed, 12)):
        reader.nats(batch, step / 12).sum().backward()
        begun |= {lane for lane in range(2) if batch.position[lane] == 0}
        frames.append(compiler.frame_count)
    assert begun == {0, 1}
    assert frames == [4] * 12
    reader.validate(1.0)
    assert compiler.frame_count == 8
    reader.nats(next(reader.feed), 0.0).sum().backward()
    reader.validate(1.0)
    assert compiler.frame_count == 8


def read_of_base(device: torch.device, precision: Any) -> tuple[DSMR, Tensor, DSMRState, DSMRState]:
    """Nats of a segment of the recipe ``base`` on a device, and the states before and after it."""
    config = recipe_named("base").streaming
    model = DSMR(config).train()
    model = model.to(device) if device != CPU else model  # tensors that hold nothing cannot move
    reading = FastModel(model, 64, legal=True, precision=precision, compiled=False)
    state = reading.roomy(model.initial_state(64))
    rows = torch.zeros(64, config.segment_tokens, TOKEN.itemsize, dtype=torch.uint8, device=device)
    nats, after = reading.read(rows, torch.zeros(64, dtype=torch.int64, device=device), state)
    nats.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert (nats.shape, nats.dtype, nats.device.type) == ((64, config.segment_tokens), torch.float32, device.type)
    for tensors in zip(state.keys, state.values, after.keys, after.values, strict=True):
        assert len({(t.shape, t.dtype, t.stride(), t.device) for t in tensors}) == 1
    assert [keys.shape for keys in after.keys] == [(64, config.heads, h, config.head_size) for h in config.horizons]
    return model, nats, state, after


def test_shapes_and_kinds_at_the_size_of_base() -> None:
    """With tensors that hold nothing: 64 lanes, 15 million weights."""
    with FakeTensorMode():
        *_, after = read_of_base(CPU, "bf16")
        assert {tensor.dtype for tensor in (*after.keys, *after.values)} == {torch.bfloat16}


def test_everything_is_made_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without numbers, which takes none of a CPU's tensors."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it has no such thing
    _, nats, *_ = read_of_base(torch.device("meta"), "fp32")
    assert nats.is_meta


# The gate.


def gate(corpus: Corpus, schedule: str = "32, 16, 48", **more: Any) -> dict[str, float]:
    parsed = HorizonSchedule.parse(schedule, layers=3)
    config = replace(MODEL, schedule=parsed, width=64, heads=4, mlp_width=96)
    how: dict[str, Any] = {"lanes": 6, "legal": True, "device": CPU, "compiled": False} | more
    return errors(config, corpus, **how)


@pytest.mark.parametrize("schedule", ["32, 16, 48", "uniform(0)", "16, 0, 21", "3x37 sliding"])
@pytest.mark.parametrize("spans", [(), (64, 20, 16)])
def test_the_gate_lets_through_what_is_right(corpus: Corpus, schedule: str, spans: Any) -> None:
    random = torch.get_rng_state()
    assert all(error < 2e-6 for error in gate(corpus, schedule, spans=spans, precision="fp32").values())
    assert all(error < TOLERANCES[name] / 2 for name, error in gate(corpus, schedule, spans=spans).items())
    assert torch.equal(torch.get_rng_state(), random)


class _TooFar(Mask):
    def move(self, position: Tensor, span_tokens: int | None = None) -> None:
        there = torch.where(torch.arange(len(position)) == 1, position + SEGMENT_TOKENS, position)
        super().move(there, span_tokens)


class _TooShort(Mask):
    def _visible(self, query: Any, key: Any, span: Any) -> Any:
        return super()._visible(query, key, span) & (
            (key >= query - query % SEGMENT_TOKENS - self._horizon + 4) | (key >= query)
        )


class _Unlimited(Mask):
    def move(self, position: Tensor, span_tokens: int | None = None) -> None:
        super().move(position)


def _with_other_ids(rows: Tensor, name: str, real: Any = fast._ids) -> Tensor:
    return torch.cat([real(rows, name)[..., :-1], real(rows, name)[..., -1:] - 1], -1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("Mask", _TooFar),
        ("Mask", _TooShort),
        ("Mask", _Unlimited),
        ("_ids", _with_other_ids),
        ("unpacked", lambda rows: unpacked(rows)._replace(velocity=unpacked(rows).velocity + 1)),
    ],
    ids=["a lane sees the piece before", "horizons too short", "all is seen", "the oldest hint", "the grammar"],
)
def test_the_gate_holds_back_what_is_wrong(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, name: str, fault: Any
) -> None:
    monkeypatch.setattr(fast, name, fault)
    assert fast.wrong(gate(corpus, spans=(16,))) is not None


def test_an_error_that_is_no_number_is_held_back() -> None:
    assert fast.wrong({"nats": 0.0, "gradients": 0.0}) is None
    assert "nats are nan off" in str(fast.wrong({"nats": float("nan"), "gradients": 0.0}))
    assert "gradients are 1.0e+00 off, 4e-02 is allowed" in str(fast.wrong({"nats": 0.0, "gradients": 1.0}))


BASE = recipe_named("base")


@pytest.mark.parametrize(
    ("recipe", "precision", "why"),
    [
        (BASE, "bf16", None),
        (BASE.changed(schedule="uniform(100) sliding"), "bf16", None),
        (BASE.changed(schedule="unlimited"), "bf16", "a limit to every memory"),
        (BASE, "fp32", "for bfloat16"),
        (replace(BASE, horizon_warmup_share=0.5, elastic_share=0.5), "bf16", None),
        (recipe_named("tiny"), "bf16", "multiples of 128"),
        (recipe_named("perceivers_base"), "bf16", "a limit to every memory"),
    ],
)
def test_what_cannot_be_read_fast_is_said(recipe: Any, precision: Any, why: str | None) -> None:
    found = refusal(recipe.model, recipe, precision)
    assert found is None if why is None else why in str(found)


@pytest.mark.parametrize("fault", [RuntimeError("no kernel for this\nlong story"), {"nats": 1.0, "gradients": 0.0}])
def test_where_the_gate_stays_shut_training_goes_the_plain_way_with_a_word(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Any
) -> None:
    def broken(*_: Any, **__: Any) -> dict[str, float]:
        if isinstance(fault, Exception):
            raise fault
        return fault  # type: ignore[no-any-return]

    monkeypatch.setattr(fast, "errors", broken)
    recipe = replace(PLAIN, model=replace(MODEL, segment_tokens=BLOCK))
    assert fast.fast_reader(DSMR(recipe.model), corpus, recipe, 0, "bf16") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "\n" not in record.getMessage()
    assert ("no kernel for this" if isinstance(fault, Exception) else "nats are 1.0e+00 off") in record.getMessage()


def test_where_the_gate_opens_a_training_on_cuda_is_read_fast(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "errors", lambda *_, **__: {"nats": 0.0, "gradients": 0.0})
    recipe = replace(PLAIN, model=replace(MODEL, segment_tokens=BLOCK))
    reader = fast.fast_reader(DSMR(recipe.model), corpus, recipe, 0, "bf16")
    assert isinstance(reader, Fast)
    monkeypatch.setattr(fast, "fast_reader", lambda *_: reader)
    model = DSMR(recipe.model)
    assert type(readers.reader_of(model, corpus, recipe, 0, "bf16")) is readers.Streaming
    monkeypatch.setattr(DSMR, "device", SimpleNamespace(type="cuda"))
    assert readers.reader_of(model, corpus, recipe, 0, "bf16") is reader
