"""How a GPU reads lanes of DSMR fast: every shape is fixed, every layer is one compiled function, no step waits.

The same weights, feed, loss and checkpoints as anywhere else (`readers.Streaming`); what differs is how a segment is
computed. Lanes come packed; memories have room for whole horizons from the first step, and are copied once a segment,
when its keys are joined to them; FlexAttention's block masks are written on the device from where lanes stand; the
validation pieces lie there too. Before a run relies on it, a gate compares it with plain attention in float32.

Axes: B lanes, T = S tokens of a segment, M remembered tokens, K = M + T keys, H heads, D head size, V events.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ritornello import codec
from ritornello.corpus import Corpus
from ritornello.feed import Lanes
from ritornello.feed.packing import TOKEN, PackedLanes
from ritornello.horizons import visible
from ritornello.likelihood import autocast, to_device, token_nats
from ritornello.models.attention import plain
from ritornello.models.blocks import Block, Rotation, rotary
from ritornello.models.config import DSMRConfig, ModelConfig
from ritornello.models.dsmr import DSMR, DSMRState
from ritornello.models.protocol import Model
from ritornello.training.fitting import Precision
from ritornello.training.ranks import ALONE, Ranks
from ritornello.training.readers import Streaming, spans_of
from ritornello.training.recipes import Recipe

BLOCK = 128  # queries and keys of a block of FlexAttention's masks
TOLERANCES = {"nats": 5e-3, "gradients": 4e-2}  # in bfloat16; a block of keys too many or too few: 1e-2 and 8e-2
COMPILATIONS = 64  # of one function at most: a layer's horizons, with gradients and without
PLACES = 4  # at which the gate's lanes stand

FIELDS = {name: (at, kind.itemsize) for name, (kind, at, *_) in (TOKEN.fields or {}).items()}
"""Where a row's fields begin, and their bytes."""

log = logging.getLogger(__name__)


class Mask:
    """Who sees whom under one horizon, brought to where the lanes stand before each segment.

    Keys are a memory of M slots, the horizon, and a segment's T; key j of a lane at position p stands at p - M + j.
    From where a memory is full on, all positions have the same blocks: there are few lists of them, made once.

    Args:
        horizon: M.
        lanes: B.
        spans: of the memory that may be all that is seen, in tokens.
        dense: a mask (B, 1, T, K) in place of FlexAttention's; its gradients need a GPU.
    """

    def __init__(
        self,
        config: DSMRConfig,
        horizon: int,
        lanes: int,
        device: torch.device,
        *,
        spans: Collection[int] = (),
        dense: bool,
    ) -> None:
        self._config, self._horizon = config, horizon
        self._spans = sorted({min(horizon, span) for span in spans} | {horizon})
        self._position = torch.zeros(lanes, dtype=torch.int32, device=device)
        self._span = torch.full_like(self._position, horizon)
        self._queries = torch.arange(config.segment_tokens, dtype=torch.int32, device=device)
        self._keys = torch.arange(-horizon, config.segment_tokens, dtype=torch.int32, device=device)
        tokens = config.segment_tokens
        self._places = torch.arange(0, horizon + tokens, tokens, dtype=torch.int32, device=device)
        self.mask = self._dense() if dense else self._block_mask()

    def move(self, position: Tensor, span_tokens: int | None = None) -> None:
        """To lanes' positions (B,), multiples of T, without waiting for the device; so much of the memory is seen."""
        span = self._horizon if span_tokens is None else min(self._horizon, span_tokens)
        self._position.copy_(position)
        self._span.fill_(span)
        if isinstance(self.mask, Tensor):
            self.mask = self._dense()
            return
        place = (self._position // len(self._queries)).clamp_(max=len(self._places) - 1)
        place += len(self._places) * self._spans.index(span)
        for listed, of_places in self._lists:
            torch.index_select(of_places, 0, place, out=listed)

    def _blocks(self, span: int) -> tuple[Tensor, Tensor]:
        """(places, T / BLOCK, K / BLOCK) bool: which blocks hold a pair that is seen, and in which all are.

        What a query sees lies side by side and moves on with it, so the first and the last of a block decide.
        """
        first = self._places[:, None, None] + self._queries[::BLOCK, None]
        lowest = self._places[:, None, None] + self._keys[::BLOCK]
        last, highest = first + BLOCK - 1, lowest + BLOCK - 1
        some = [
            self._visible(query, torch.minimum(highest, query), span) & (lowest <= query) for query in (first, last)
        ]
        return some[0] | some[1], self._visible(first, highest, span) & self._visible(last, lowest, span)

    def _visible(self, query: Any, key: Any, span: Any) -> Any:
        tokens, rule = self._config.segment_tokens, self._config.schedule.rule
        return visible(query, key, horizon=span, segment_tokens=tokens, rule=rule)

    def _dense(self) -> Tensor:
        start, span = (of_lane[:, None, None, None] for of_lane in (self._position, self._span))
        seen: Tensor = self._visible(start + self._queries[:, None], start + self._keys, span)
        return seen

    def _block_mask(self) -> Any:
        from torch.nn.attention.flex_attention import BlockMask

        some, full = (torch.cat(blocks) for blocks in zip(*map(self._blocks, self._spans)))
        kinds, lanes = (some & ~full, full), torch.zeros_like(self._position)
        of_places = [_listed(blocks) for blocks in kinds]
        # The other way round, for the gradients of keys: those of memories take none. At position 0 they have no
        # block, and to the segment's own keys neither positions nor spans make a difference.
        of_keys = [_listed(blocks[:1].mT) for blocks in kinds]
        kv, full_kv, q, full_q = ((numbers[lanes], columns[lanes]) for numbers, columns in of_places + of_keys)
        self._lists = list(zip(kv + full_kv, of_places[0] + of_places[1]))
        position, span, horizon = self._position, self._span, self._horizon
        tokens, rule = self._config.segment_tokens, self._config.schedule.rule

        def seen(lane: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Any:
            start, part = position[lane], cast(Any, span[lane])
            return visible(start + query, start + key - horizon, horizon=part, segment_tokens=tokens, rule=rule)

        return BlockMask(
            (len(self._queries), len(self._keys)), *kv, *full_kv, *q, *full_q, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=seen
        )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(N, R, C) bool -> how many there are in a row (N, 1, R), and their columns first of all (N, 1, R, C), int32."""
    numbers = blocks.int()
    columns = numbers.argsort(dim=-1, descending=True, stable=True)
    return numbers.sum(-1, dtype=torch.int32)[:, None], columns.int()[:, None].contiguous()


class Dropout(nn.Module):
    """Dropout whose share is a tensor: another share is no other compilation."""

    def __init__(self, share: Tensor) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        survives = torch.rand(x.shape, device=x.device) >= self.share
        return x * (survives / (1 - self.share)).to(x.dtype)


class FastModel:
    """A DSMR's weights, shared and not copied, that read a packed segment of B lanes at a time; horizons are finite.

    ``spans`` are those that `read` may be asked for. Where it is not ``compiled``, the arithmetic alone shows.
    """

    def __init__(
        self,
        model: DSMR,
        lanes: int,
        *,
        legal: bool,
        precision: Precision,
        spans: Collection[int] = (),
        compiled: bool = True,
    ) -> None:
        self.config = model.config
        self.twin = model.rescheduled(self.config.schedule)
        self.share = torch.full((), self.config.dropout, device=model.device)
        for block in self.twin.layers():
            block.dropout = Dropout(self.share)  # type: ignore[assignment]
        self._lanes, self._legal, self._precision = lanes, legal, precision
        dense = not model.final_gain.is_cuda
        self._masks = {
            h: Mask(self.config, h, lanes, model.device, spans=spans, dense=dense) for h in set(self.config.horizons)
        }
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS)

        def fast(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(function, dynamic=False, fullgraph=True) if compiled else function

        self._begin, self._layer, self._end = fast(_begin), fast(_layer), fast(_end)

    def roomy(self, state: DSMRState) -> DSMRState:
        """A state with room for whole horizons, of the same keys and values.

        Its tensors are views of as large ones as those of later states are: another stride were another compilation.
        """
        kind = torch.bfloat16 if self._precision == "bf16" else torch.float32
        size = (self.config.heads, self.config.segment_tokens, self.config.head_size)

        def room(memory: Tensor, horizon: int) -> Tensor:
            heads, tokens, width = size
            whole = torch.zeros(self._lanes, heads, horizon + tokens, width, dtype=kind, device=self.twin.device)
            recent = memory[:, :, max(0, memory.shape[2] - horizon) :]
            whole[:, :, horizon + tokens - recent.shape[2] :] = recent
            return whole[:, :, tokens:]

        keys, values = (tuple(map(room, part, self.config.horizons)) for part in (state.keys, state.values))
        return DSMRState(keys, values, state.position)

    def read(
        self, rows: Tensor, position: Tensor, state: DSMRState, span_tokens: int | None = None
    ) -> tuple[Tensor, DSMRState]:
        """Rows (B, T, bytes of a TOKEN) uint8 at (B,) positions and the state before -> (B, T) nats, the state after.

        A row's target that is PAD takes 0 nats. What the state says of positions is not asked. Of its memories so much
        is seen at most; None: all.
        """
        tokens = self.config.segment_tokens
        for mask in self._masks.values():
            mask.move(position, span_tokens)
        with autocast(rows.device, self._precision):
            x, rotation = self._begin(self.twin, rows, position)
            keys, values = [], []
            for block, horizon, old_k, old_v in zip(self.twin.layers(), self.config.horizons, state.keys, state.values):
                x, k, v = self._layer(block, x, rotation, old_k, old_v, self._masks[horizon].mask)
                keys.append(k[:, :, tokens:])
                values.append(v[:, :, tokens:])
            nats = self._end(self.twin, x, rows, self._legal)
        return nats, DSMRState(tuple(keys), tuple(values), state.position)


def _begin(model: DSMR, rows: Tensor, position: Tensor) -> tuple[Tensor, Rotation]:
    """What the first layer reads (B, T, C), and the rotation of all layers."""
    inputs = _ids(rows, "input")
    places = position[:, None] + torch.arange(rows.shape[1], device=rows.device)
    last = 1 + codec.HINT_COLUMNS
    tables = ((slice(1, last), model.hint_embedding), (slice(last, None), model.label_embedding))
    read = [inputs[..., columns] for columns, table in tables if table is not None]
    x = model.embed(torch.cat([inputs[..., :1], *read], dim=-1))
    return x, rotary(places, model.config.head_size, like=model.final_gain)


def _layer(
    block: Block, x: Tensor, rotation: Rotation, memory_k: Tensor, memory_v: Tensor, mask: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The stream (B, T, C) after a layer, and its keys and values (B, H, K, D), detached."""
    q, k, v = block.project(x, rotation)
    keys, values = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
    if isinstance(mask, Tensor):
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    else:
        from torch.nn.attention.flex_attention import flex_attention

        attended = flex_attention(q, keys, values, block_mask=mask)
    return block.update(x, attended), keys.detach(), values.detach()


def _end(model: DSMR, x: Tensor, rows: Tensor, legal: bool) -> Tensor:
    """(B, T) nats of the targets."""
    return token_nats(model.predict(x), _ids(rows, "target")[..., 0], unpacked(rows) if legal else None)


def _field(rows: Tensor, name: str) -> Tensor:
    """The bytes (B, T, n) of a field of rows (B, T, bytes)."""
    start, size = FIELDS[name]
    return rows[..., start : start + size]


def _ids(rows: Tensor, name: str) -> Tensor:
    """(B, T, n) int64: a field's numbers of two bytes, the low one first."""
    low, high = _field(rows, name).long().unflatten(-1, (-1, 2)).unbind(-1)
    return low + 256 * high


def unpacked(rows: Tensor) -> codec.Context:
    """The grammar contexts (B, T, ...) of rows (B, T, bytes)."""
    bit = torch.arange(8, device=rows.device)
    floor_on, floor_off, velocity = (_field(rows, "numbers").int() - 1).unbind(-1)
    after_velocity, may_shift, may_end = ((_field(rows, "flags").int() >> bit[:3]) & 1).bool().unbind(-1)
    sounding = (_field(rows, "sounding")[..., None].int() >> bit) & 1
    return codec.Context(sounding.flatten(-2).bool(), floor_on, floor_off, velocity, after_velocity, may_shift, may_end)


@dataclass(eq=False)
class Fast(Streaming):
    """As `Streaming`, by a `FastModel`. What is saved is the same: a run goes on with either, on any device."""

    model: DSMR
    workers: int | None = None
    """processes that make pieces ahead, see `PackedLanes`"""
    compiled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        lanes = self._own.stop - self._own.start
        legal, precision = self.recipe.legal, self.precision
        spans = spans_of(self.recipe, self.model.segment_tokens, self._furthest_tokens)
        self._fast = FastModel(self.model, lanes, legal=legal, precision=precision, spans=spans, compiled=self.compiled)
        self._states = [self._fast.roomy(state) for state in self._states]
        self._validation: list[tuple[Tensor, Tensor]] | None = None

    def _lanes(self, **how: Any) -> PackedLanes:
        return PackedLanes(self.corpus, "train", workers=self.workers, **how)

    def nats(self, batch: Any, progress: float) -> Tensor:
        """(B, S)."""
        rows, position = sent(batch, self.model.device)
        nats, state = self._fast.read(rows, position, self._states[batch.group], self._drawn_span(progress))
        after = torch.from_numpy(batch.position + self.model.segment_tokens)
        self._states[batch.group] = state._replace(position=after)
        return nats

    def validate(self, progress: float) -> float:
        """Each rank reads its part of the pieces, which stay on the device, packed; one number is read back."""
        if self._validation is None:
            self._validation = [sent(batch, self.model.device) for batch in self._validation_lanes()]
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        state = self._fast.roomy(self.model.initial_state(self._own.stop - self._own.start))
        self._fast.twin.eval()
        with torch.no_grad():
            for rows, position in self._validation:
                nats, state = self._fast.read(rows, position, state, self._span_tokens(progress))
                total += nats.double().sum()
        self._fast.twin.train()
        records = self.corpus.pieces("validation")
        return math.fsum(self.ranks.all(float(total))) / sum(records[i].tokens for i in self._validation_pieces)

    def _validation_lanes(self) -> PackedLanes:
        return PackedLanes(
            self.corpus,
            "validation",
            lanes=self._own.stop - self._own.start,
            segment_tokens=self.model.segment_tokens,
            shuffle=False,
            epochs=1,
            grammar=self.recipe.legal,
            motif_notes=self.model.config.motif_notes,
            pieces=self._validation_pieces[self.ranks.rank :: self.ranks.size],
            workers=self.workers,
        )

    def tensors(self) -> dict[str, Tensor]:
        """As of `Streaming`: without the room that no lane has filled."""
        most = max(int(state.position.max()) for state in self._states)
        return {n: t[:, :, max(0, t.shape[2] - most) :] if t.ndim == 4 else t for n, t in super().tensors().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back states, those of `Streaming` too."""
        super().restore(tensors)
        self._states = [self._fast.roomy(state) for state in self._states]


def sent(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """A `PackedBatch`'s rows (B, T, bytes) uint8 and positions (B,), on their way to the device; nobody waits for them.

    Torch keeps the pinned memory that they go through until they have arrived, and uses it again.
    """
    parts = (torch.from_numpy(x) for x in (batch.rows, batch.position))
    rows, position = (x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x for x in parts)
    return rows, position


def fast_reader(
    model: Model[Any], corpus: Corpus, recipe: Recipe, seed: int, precision: Precision, ranks: Ranks = ALONE
) -> Fast | None:
    """The reader, once the gate has compared it with the plain way; None, and a word why, where it may not be used."""
    why = refusal(model.config, recipe, precision)
    if isinstance(model, DSMR) and why is None:
        own = ranks.share(recipe.lanes)
        try:
            spans = spans_of(recipe, model.segment_tokens, max(model.config.horizons))
            how: dict[str, Any] = {"legal": recipe.legal, "spans": spans, "device": model.device}
            found_errors = errors(model.config, corpus, lanes=own.stop - own.start, **how)
            why = wrong(found_errors)
        except Exception as error:  # whatever a compiler or a kernel does not like
            why = " ".join([f"{type(error).__name__}:", *str(error).strip().splitlines()[:1]])
        why = next(filter(None, ranks.all(why)), None)
        if why is None:
            return Fast(model, corpus, recipe, seed, precision, ranks)
    if ranks.rank == 0:
        log.warning("training goes the plain way, not the fast one: %s", why)
    return None


def refusal(config: ModelConfig, recipe: Recipe, precision: Precision) -> str | None:
    """Why a training cannot be read fast; None if it can."""
    if not isinstance(config, DSMRConfig) or len(config.horizons) < config.schedule.layers:
        return "it is for DSMR with a limit to every memory"
    if config.segment_tokens % BLOCK:
        return f"segments must be multiples of {BLOCK} tokens"
    return "it is for bfloat16" if precision != "bf16" else None


def wrong(errors: dict[str, float]) -> str | None:
    """Which error is above its tolerance, or no number; None where all are within."""
    beyond = [
        f"{name} are {e:.1e} off, {TOLERANCES[name]:.0e} is allowed"
        for name, e in errors.items()
        if not e <= TOLERANCES[name]
    ]
    return "; ".join(beyond) or None


def errors(
    config: DSMRConfig,
    corpus: Corpus,
    *,
    lanes: int,
    legal: bool,
    spans: Collection[int] = (),
    device: torch.device,
    precision: Precision = "bf16",
    compiled: bool = True,
) -> dict[str, float]:
    """How far a `FastModel` is from the same weights with plain attention in float32: relative errors by name.

    Lanes with full memories, with half and with none read two segments of pieces to train on; one begins anew with the
    second, where the middle one of ``spans`` is all that is seen. Nothing is dropped. With it everything is compiled
    that a training and its validation run.

    Returns:
        ``nats`` of all tokens, with gradients and without, and ``gradients`` of all parameters as one vector.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        tokens = config.segment_tokens
        reference = DSMR(replace(config, dropout=0.0)).to(device).train()
        reference.attention = plain
        _awaken(reference)
        fast = FastModel(reference, lanes, legal=legal, precision=precision, spans=spans, compiled=compiled)
        how: dict[str, Any] = {"lanes": PLACES, "segment_tokens": tokens, "piece_tokens": 2 * tokens, "grammar": legal}
        how |= {"motif_notes": config.motif_notes, "called": 0.5 * config.recalls}
        how |= {"labels": config.labels, "label_share": 0.5}
        feeds: tuple[Any, Any] = PackedLanes(corpus, "train", workers=0, **how), Lanes(corpus, "train", **how)
        place = torch.arange(lanes, device=device) % PLACES
        half = max(config.horizons) // 2 // tokens * tokens
        positions = [
            torch.tensor(p, device=device)
            for p in ([0, tokens, half, 9 * half], [tokens, 0, half + tokens, 9 * half + tokens])
        ]
        keys = tuple(_drawn(config, h, device) for h in config.horizons)
        # The mean of M values is by the root of M smaller than they are.
        values = tuple(_drawn(config, h, device, h**0.5) for h in config.horizons)
        state = DSMRState(keys, values, positions[0].cpu())
        fast_state = fast.roomy(
            DSMRState(tuple(t[place] for t in keys), tuple(t[place] for t in values), state.position)
        )
        apart, size, gradients = [], [], []
        for position, span in zip(positions, (None, sorted(spans)[len(spans) // 2] if spans else None)):
            packed, batch = map(next, feeds)
            rows, _ = sent(packed, device)
            toward = torch.randn(lanes, tokens, device=device)
            fast.twin.eval()
            with torch.no_grad():
                unlearned, _ = fast.read(rows[place], position[place], fast_state, span)
            fast.twin.train()
            nats, fast_state = fast.read(rows[place], position[place], fast_state, span)
            (nats * toward).sum().backward()
            gradients.append(_gradients(reference))
            inputs, targets = (torch.from_numpy(x).to(device) for x in (batch.inputs, batch.targets))
            logits, state = reference(inputs, state._replace(position=position.cpu()), span_tokens=span)
            expected = token_nats(logits, targets, to_device(batch.context, device))
            (expected * torch.zeros_like(expected).index_add(0, place, toward)).sum().backward()
            gradients.append(_gradients(reference))
            apart += [(computed - expected[place]).detach() for computed in (nats, unlearned)]
            size += [expected[place].detach()] * 2
        computed, right = torch.stack(gradients[::2]), torch.stack(gradients[1::2])
        return {
            "nats": float(torch.stack(apart).norm() / torch.stack(size).norm()),
            "gradients": float((computed - right).norm() / right.norm()),
        }


def _awaken(model: DSMR) -> None:
    """Numbers for matrices that begin at zero, and logits of about 1: else nothing would show what attention finds."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
        nn.init.normal_(model.head.weight, std=model.config.width**-0.5)


def _drawn(config: DSMRConfig, horizon: int, device: torch.device, size: float = 1.0) -> Tensor:
    """Memories (PLACES, H, M, D) that both precisions can hold."""
    drawn = size * torch.randn(PLACES, config.heads, horizon, config.head_size, device=device)
    return drawn.bfloat16().float()


def _gradients(model: DSMR) -> Tensor:
    """Of all parameters, as one vector; they are dropped."""
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return gradients
