"""The law of design.md, as claims about any `Model` under any schedule.

A test module binds a model by describing it as a `Subject` and running every claim of ``CLAIMS`` on it, and those of
``GRADIENT_CLAIMS``. A claim is a function of a subject and of a generator; it raises
AssertionError with figures where the model breaks it. "Bitwise" below means the same numbers to the last bit: where
the shapes of the computation are the same, whatever differs has leaked.

Axes: B lanes, T tokens, V events. S is the segment in tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Generator, Tensor

from ritornello.codec import N_EVENTS, PAD
from ritornello.horizons import HorizonSchedule, Rule
from ritornello.models.protocol import Model, named_tensors, with_tensors

FAR = 1_000_000

Forward = Callable[[Tensor, Any], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Subject:
    """A model and what is declared about it."""

    model: Model[Any]
    """in evaluation mode, with weights under which memory matters (branches that start silent prove nothing)"""
    schedule: HorizonSchedule
    reading_tokens: int
    """length of the texts that are read: enough to fill the horizons and to exceed the reach, at most `N_EVENTS`"""
    tolerance: float
    """largest difference of logits between two ways to compute the same"""
    far_tolerance: float
    """the same between low positions and those about `FAR`"""
    declared_bytes: Callable[[int], int]
    """of one lane that has read so many tokens; see `attention_memory_bytes`"""
    full_bytes: int | None
    """of one lane at a segment's start once its horizons are full; None if they never are"""
    first_reached: Callable[[int], int]
    """position -> the earliest one that may influence its output"""
    attached: Forward
    """forward whose gradients pass through the state"""

    @property
    def segment_tokens(self) -> int:
        """S."""
        return self.model.segment_tokens

    def standing_at(self, positions: Tensor) -> Any:
        """The state of lanes that stand at these positions (B,) and remember nothing."""
        return self.model.initial_state(len(positions))._replace(position=positions)


def resident_bytes(state: Any) -> int:
    """What a state keeps alive of past tokens, all lanes: a view counts with all of the tensor that it looks into."""
    storages = [t.untyped_storage() for name, t in named_tensors(state).items() if name != "position"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def attention_memory_bytes(
    schedule: HorizonSchedule, *, segment_tokens: int, width: int, bytes_per_number: int
) -> Callable[[int], int]:
    """Declared bytes of one lane of a model that keeps a key and a value for every token it may still see, and no more.

    Counted key by key, from the sentences of design.md ("What a query sees").
    """

    def at(position: int) -> int:
        slots = [_still_needed(position, h, segment_tokens, schedule.rule) for h in schedule.horizons]
        return sum(slots) * 2 * width * bytes_per_number

    return at


# 1. Chunking.


def any_chunking_gives_the_same_logits(subject: Subject, generator: Generator) -> None:
    """The same tokens in chunks of 1, 2, 3, 7, S-1, S, S+1, whole, or of random lengths; and so does what follows."""
    n, s = subject.reading_tokens, subject.segment_tokens
    text, rest = _text(subject, generator, 2), _text(subject, generator, 2)[:, : s + 1]
    whole, state = _read(subject, text, subject.model.initial_state(2), [n])
    after, _ = _read(subject, rest, state, [s + 1])
    _finite(whole, "reading the whole text at once")
    regular = [_equal_chunks(n, size) for size in sorted({1, 2, 3, 7, max(1, s - 1), s, s + 1})]
    for chunks in [*regular, *(_random_chunks(n, s, generator) for _ in range(2))]:
        logits, state = _read(subject, text, subject.model.initial_state(2), chunks)
        _agree(logits, whole, subject.tolerance, f"chunks {_short(chunks)} and the whole text")
        logits, _ = _read(subject, rest, state, [s + 1])
        _agree(logits, after, subject.tolerance, f"what follows chunks {_short(chunks)} and the whole text")


# 2. A state is a value.


def using_a_state_changes_nothing_in_it(subject: Subject, generator: Generator) -> None:
    """Neither forward (of one token, of more than a segment) nor restart; nor do later states change earlier ones."""
    lanes, s = 2, subject.segment_tokens
    text = _text(subject, generator, lanes)
    state = subject.model.initial_state(lanes)
    earlier = []
    for chunk in text.split(_random_chunks(subject.reading_tokens, s, generator), dim=1):
        before = _snapshot(state)
        with torch.no_grad():
            subject.model.forward(text[:, : s + 1], state)
            subject.model.restart(state, torch.tensor([True, False]))
            subject.model.forward(text[:, :1], state)
        _unchanged(before, named_tensors(state), "using a state")
        earlier.append((state, before))
        _, state = _read(subject, chunk, state, [chunk.shape[1]])
    for old, before in earlier:
        _unchanged(before, named_tensors(old), "reading on from a state")


def an_old_state_can_be_used_again(subject: Subject, generator: Generator) -> None:
    """A branch taken from a state before and after another branch is the same, bitwise."""
    lanes, s = 2, subject.segment_tokens
    one, other = _text(subject, generator, lanes), _text(subject, generator, lanes)
    for n in _places(subject):
        _, state = _read(subject, one[:, :n], subject.model.initial_state(lanes), [n])
        chunks = _random_chunks(2 * s, s, generator)
        first, _ = _read(subject, one[:, : 2 * s], state, chunks)
        _read(subject, other[:, : 2 * s], state, [2 * s])
        again, _ = _read(subject, one[:, : 2 * s], state, chunks)
        _agree(again, first, 0.0, f"two branches from one state after {n} tokens")


def a_saved_and_reloaded_state_continues_identically(subject: Subject, generator: Generator) -> None:
    """Through the bytes of a safetensors file: bitwise, at the start, inside a segment and at its border."""
    lanes, s = 2, subject.segment_tokens
    text, rest = _text(subject, generator, lanes), _text(subject, generator, lanes)[:, : 2 * s]
    for n in [0, *_places(subject)]:
        state = subject.model.initial_state(lanes)
        if n:
            _, state = _read(subject, text[:, :n], state, [n])
        reloaded = with_tensors(state, load(save(_snapshot(state))))
        straight, _ = _read(subject, rest, state, [1, 2 * s - 1])
        logits, _ = _read(subject, rest, reloaded, [1, 2 * s - 1])
        _agree(logits, straight, 0.0, f"a state reloaded after {n} tokens and the state itself")


# 3. Lanes.


def a_restarted_lane_equals_a_fresh_one(subject: Subject, generator: Generator) -> None:
    """Wherever it stood, and bitwise whatever it had read; the lanes beside it go on as if nothing had happened."""
    s = subject.segment_tokens
    text, history, rest = (_text(subject, generator, 3) for _ in range(3))
    history[[0, 2]] = text[[0, 2]]
    length = 2 * s + 1
    rest = rest[:, :length]
    for n in _places(subject):
        results = []
        for past in (text, history):
            _, state = _read(subject, past[:, :n], subject.model.initial_state(3), [n])
            state = subject.model.restart(state, torch.tensor([False, True, False]))
            results.append(_read(subject, rest, state, [1, length - 1])[0])
        _agree(results[0], results[1], 0.0, f"lanes after a restart at {n}, with one past and another")
        fresh, _ = _read(subject, rest[1:2], subject.model.initial_state(1), [length])
        _agree(results[0][1:2], fresh, subject.tolerance, f"a lane restarted at {n} and a fresh one")
        for lane in (0, 2):
            alone = torch.cat([text[lane : lane + 1, :n], rest[lane : lane + 1]], dim=1)
            logits, _ = _read(subject, alone, subject.model.initial_state(1), [n + length])
            what = f"lane {lane} beside one restarted at {n}, and alone"
            _agree(results[0][lane : lane + 1], logits[:, n:], subject.tolerance, what)


def lanes_equal_lanes_read_alone(subject: Subject, generator: Generator) -> None:
    """Lanes at positions of their own: one far away, the others restarted at random, inside segments too."""
    lanes, s = 4, subject.segment_tokens
    n = 2 * subject.reading_tokens
    text = torch.cat([_text(subject, generator, lanes), _text(subject, generator, lanes)], dim=1)
    start = torch.tensor([0, FAR // s * s + s // 2, 0, s - 1])
    starts: list[list[int]] = [[0] for _ in range(lanes)]
    state, parts, read = subject.standing_at(start), [], 0
    for length in _random_chunks(n, s, generator):
        marked = torch.rand(lanes, generator=generator) < torch.tensor([0.0, 0.0, 0.15, 0.3])
        if read and marked.any():
            state = subject.model.restart(state, marked)
            for lane in marked.nonzero().flatten().tolist():
                starts[lane].append(read)
        logits, state = _read(subject, text[:, read : read + length], state, [length])
        parts.append(logits)
        read += length
    together = torch.cat(parts, dim=1)
    for lane in range(lanes):
        for begin, end in zip(starts[lane], [*starts[lane][1:], n]):
            alone = subject.standing_at(start[lane : lane + 1]) if begin == 0 else subject.model.initial_state(1)
            logits, _ = _read(subject, text[lane : lane + 1, begin:end], alone, [end - begin])
            what = f"lane {lane} from {begin} to {end}, beside others and alone"
            _agree(together[lane : lane + 1, begin:end], logits, subject.tolerance, what)


def lanes_leak_nothing_into_each_other(subject: Subject, generator: Generator) -> None:
    """Other tokens in one lane leave every other lane bitwise as it was."""
    lanes, n, s = 3, subject.reading_tokens, subject.segment_tokens
    text, other = _text(subject, generator, lanes), _text(subject, generator, lanes)
    chunks = _random_chunks(n, s, generator)
    logits, _ = _read(subject, text, subject.model.initial_state(lanes), chunks)
    for lane in range(lanes):
        changed = text.clone()
        changed[lane] = other[lane]
        beside, _ = _read(subject, changed, subject.model.initial_state(lanes), chunks)
        kept = [i for i in range(lanes) if i != lane]
        _agree(beside[kept], logits[kept], 0.0, f"lanes {kept} beside one text in lane {lane} and beside another")


def padding_leaks_nothing(subject: Subject, generator: Generator) -> None:
    """Behind a piece's end: not into the piece, not into other lanes, not into the lane's next piece."""
    lanes, s = 2, subject.segment_tokens
    text, rest = _text(subject, generator, lanes), _text(subject, generator, lanes)[:, : s + 1]
    for end in _places(subject):
        n = -(-(end + 1) // s) * s
        long = torch.cat([text, text], dim=1)[:, :n]
        padded = long.clone()
        padded[0, end:] = PAD
        state = subject.model.initial_state(lanes)
        (plain, plain_state), (logits, padded_state) = (_read(subject, t, state, [n]) for t in (long, padded))
        _agree(logits[0, :end], plain[0, :end], 0.0, f"a piece of {end} tokens with padding behind it and with tokens")
        _agree(logits[1], plain[1], 0.0, f"a lane beside padding from {end} on and beside tokens")
        restarted = [subject.model.restart(old, torch.tensor([True, False])) for old in (plain_state, padded_state)]
        (after_plain, _), (after_padding, _) = (_read(subject, rest, old, [s + 1]) for old in restarted)
        _agree(after_padding, after_plain, 0.0, f"the next piece after padding from {end} on and after tokens")
        fresh, _ = _read(subject, rest[:1], subject.model.initial_state(1), [s + 1])
        _agree(after_padding[:1], fresh, subject.tolerance, f"the piece after padding from {end} on and a fresh lane")


# 4. Reach.


def nothing_after_a_query_matters(subject: Subject, generator: Generator) -> None:
    """Other tokens behind a position leave its logits bitwise as they were."""
    n, s = subject.reading_tokens, subject.segment_tokens
    text, other = _text(subject, generator, 1), _text(subject, generator, 1)
    chunks = _random_chunks(n, s, generator)
    logits, _ = _read(subject, text, subject.model.initial_state(1), chunks)
    for q in _queries(subject, generator):
        changed = torch.cat([text[:, : q + 1], other[:, q + 1 :]], dim=1)
        beside, _ = _read(subject, changed, subject.model.initial_state(1), chunks)
        _agree(beside[:, : q + 1], logits[:, : q + 1], 0.0, f"outputs up to {q} with one future and with another")


def nothing_before_the_declared_reach_matters(subject: Subject, generator: Generator) -> None:
    """Other tokens before it leave the logits bitwise as they were; other tokens within it do not."""
    n, s = subject.reading_tokens, subject.segment_tokens
    text, other = _text(subject, generator, 1), _text(subject, generator, 1)
    chunks = _random_chunks(n, s, generator)
    logits, _ = _read(subject, text, subject.model.initial_state(1), chunks)
    for q in _queries(subject, generator):
        first, start = subject.first_reached(q), q // s * s
        changed = torch.cat([other[:, :first], text[:, first:]], dim=1)
        beside, _ = _read(subject, changed, subject.model.initial_state(1), chunks)
        _agree(beside[:, q], logits[:, q], 0.0, f"the output at {q} with other tokens before {first}, and without")
        if first < start:
            changed = torch.cat([text[:, :first], other[:, first:start], text[:, start:]], dim=1)
            beside, _ = _read(subject, changed, subject.model.initial_state(1), chunks)
            if torch.equal(beside[:, q], logits[:, q]):
                raise AssertionError(f"the output at {q} does not change with the tokens from {first} to {start}")


def declared_reach_equals_the_one_measured_by_gradient(subject: Subject, generator: Generator) -> None:
    """The output at a position has a gradient at each token from the first reached one on, and at no other."""
    n, s = subject.reading_tokens, subject.segment_tokens
    for chunks in ([n], _random_chunks(n, s, generator)):
        text = _text(subject, generator, 1)
        logits = _read_with(subject.attached, text, subject.model.initial_state(1), chunks)[0]
        for q in _queries(subject, generator):
            declared = list(range(subject.first_reached(q), q + 1))
            measured = _influences(subject, text[0], logits[0, q], generator)
            if measured != declared:
                raise AssertionError(
                    f"the output at {q} (S = {s}, chunks {_short(chunks)}) is influenced from {_span(measured)}, "
                    f"declared is {_span(declared)}"
                )


def no_gradient_crosses_a_segments_start(subject: Subject, generator: Generator) -> None:
    """By default, and read at once, gradients reach exactly to the segment's start.

    In chunks, or beside a lane whose segments start elsewhere, they never reach further.
    """
    n, s = subject.reading_tokens, subject.segment_tokens
    for starts, chunks in (([0], [n]), ([0, s // 2], [2 * s + 1, n - 2 * s - 1])):
        text = _text(subject, generator, len(starts))
        logits = _read_with(subject.model.forward, text, subject.standing_at(torch.tensor(starts)), chunks)[0]
        for lane, start in enumerate(starts):
            for q in _queries(subject, generator):
                segment = list(range(max(0, (start + q) // s * s - start), q + 1))
                measured = _influences(subject, text[lane], logits[lane, q], generator)
                exactly = len(starts) == len(chunks) == 1
                if (exactly and measured != segment) or not set(measured) <= set(segment):
                    raise AssertionError(
                        f"the gradient of the output at {q} (S = {s}, chunks {_short(chunks)}, lanes from {starts}) "
                        f"reaches {_span(measured)}; its segment is {_span(segment)}"
                    )


# 5. Bytes.


def memory_is_what_is_declared(subject: Subject, generator: Generator) -> None:
    """At every position; and at segment starts, once the horizons are full, shapes and bytes never change again."""
    lanes, s = 2, subject.segment_tokens
    text = _text(subject, generator, lanes)
    state = subject.model.initial_state(lanes)
    full_from = max(h or 0 for h in subject.schedule.horizons)
    seen: dict[str, tuple[tuple[int, ...], torch.dtype]] | None = None
    for position in range(subject.reading_tokens + 1):
        held, declared = resident_bytes(state), lanes * subject.declared_bytes(position)
        if held != declared:
            raise AssertionError(f"after {position} tokens (S = {s}) the memory is {held} bytes, declared {declared}")
        if subject.full_bytes is not None and position % s == 0 and position >= max(1, full_from):
            full = lanes * subject.full_bytes
            if held != full:
                raise AssertionError(f"full at {position}: {held} bytes, the schedule says {full}")
            shapes = {name: (tuple(t.shape), t.dtype) for name, t in named_tensors(state).items()}
            if seen is not None and shapes != seen:
                raise AssertionError(f"shapes at {position} are {shapes}, a segment before they were {seen}")
            seen = shapes
        if position < subject.reading_tokens:
            _, state = _read(subject, text[:, position : position + 1], state, [1])
    if subject.full_bytes is not None and seen is None:
        raise ValueError(f"a text of {subject.reading_tokens} tokens does not fill horizons of {full_from}")


def memory_does_not_depend_on_chunking(subject: Subject, generator: Generator) -> None:
    """Read at once or in random chunks, a text leaves the same bytes behind: whatever a chunk was, it is trimmed."""
    n, s = subject.reading_tokens, subject.segment_tokens
    for length in (n, n // s * s, n // s * s - 1):
        text = _text(subject, generator, 1)[:, :length]
        for chunks in ([length], _random_chunks(length, s, generator)):
            _, state = _read(subject, text, subject.model.initial_state(1), chunks)
            held, declared = resident_bytes(state), subject.declared_bytes(length)
            if held != declared:
                raise AssertionError(f"chunks {_short(chunks)} leave {held} bytes, declared for {length} is {declared}")


# 6. Positions.


def only_relative_positions_matter(subject: Subject, generator: Generator) -> None:
    """A text read from position p or p + k S, up to a million and beyond, with the memory filled there."""
    n, s = subject.reading_tokens, subject.segment_tokens
    text = _text(subject, generator, 1)
    ends_at_far = (FAR - n) // s * s
    for begin in sorted({0, s - 1, 10}):
        low, _ = _read(subject, text, subject.standing_at(torch.tensor([begin])), [n])
        starts = torch.tensor([begin, begin + s, begin + 9 * s, begin + ends_at_far, begin + 5 * ends_at_far])
        beside, _ = _read(subject, text.expand(len(starts), n), subject.standing_at(starts), [n])
        for start, logits in zip(starts.tolist(), beside):
            _agree(logits[None], low, subject.far_tolerance, f"{n} tokens from {start}, beside others, and {begin}")
        far = subject.standing_at(torch.tensor([begin + ends_at_far]))
        alone, _ = _read(subject, text, far, _random_chunks(n, s, generator))
        _agree(alone, low, subject.far_tolerance, f"{n} tokens from {begin + ends_at_far} and from {begin}")


def a_fresh_lane_stands_at_the_pieces_start(subject: Subject, generator: Generator) -> None:
    """The initial state is that of position 0, bitwise."""
    text = _text(subject, generator, 2)
    fresh, _ = _read(subject, text, subject.model.initial_state(2), [subject.reading_tokens])
    standing, _ = _read(subject, text, subject.standing_at(torch.tensor([0, 0])), [subject.reading_tokens])
    _agree(standing, fresh, 0.0, "lanes standing at 0 and fresh ones")


Claim = Callable[[Subject, Generator], None]

CLAIMS: tuple[Claim, ...] = (
    any_chunking_gives_the_same_logits,
    using_a_state_changes_nothing_in_it,
    an_old_state_can_be_used_again,
    a_saved_and_reloaded_state_continues_identically,
    a_restarted_lane_equals_a_fresh_one,
    lanes_equal_lanes_read_alone,
    lanes_leak_nothing_into_each_other,
    padding_leaks_nothing,
    nothing_after_a_query_matters,
    nothing_before_the_declared_reach_matters,
    memory_is_what_is_declared,
    memory_does_not_depend_on_chunking,
    only_relative_positions_matter,
    a_fresh_lane_stands_at_the_pieces_start,
)
GRADIENT_CLAIMS: tuple[Claim, ...] = (
    declared_reach_equals_the_one_measured_by_gradient,
    no_gradient_crosses_a_segments_start,
)


def _still_needed(position: int, horizon: int | None, s: int, rule: Rule) -> int:
    """Tokens before ``position`` that the query there, or any later one, sees."""
    if horizon is None:
        return position
    start = position // s * s
    first = start - horizon if rule == "segment" else min(start, position - horizon)
    return sum(1 for key in range(position) if key >= first)


def _text(subject: Subject, generator: Generator, lanes: int) -> Tensor:
    """(B, T) ids, no id twice in a lane: so the gradient of an embedding's row is that of one position."""
    if subject.reading_tokens > N_EVENTS:
        raise ValueError(f"{subject.reading_tokens} tokens cannot all differ, there are {N_EVENTS} events")
    rows = [torch.randperm(N_EVENTS, generator=generator) for _ in range(lanes)]
    return torch.stack(rows)[:, : subject.reading_tokens]


@torch.no_grad()
def _read(subject: Subject, tokens: Tensor, state: Any, chunks: Sequence[int]) -> tuple[Tensor, Any]:
    return _read_with(subject.model.forward, tokens, state, chunks)


def _read_with(forward: Forward, tokens: Tensor, state: Any, chunks: Sequence[int]) -> tuple[Tensor, Any]:
    if sum(chunks) != tokens.shape[1]:
        raise ValueError(f"chunks {chunks} do not make up {tokens.shape[1]} tokens")
    parts = []
    for chunk in tokens.split(list(chunks), dim=1):
        logits, state = forward(chunk, state)
        parts.append(logits)
    return torch.cat(parts, dim=1), state


def _influences(subject: Subject, text: Tensor, output: Tensor, generator: Generator) -> list[int]:
    """Positions of ``text`` (T,) at which a random direction of ``output`` (V,) has a gradient that is not zero."""
    direction = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    (gradient,) = torch.autograd.grad((output * direction).sum(), subject.model.embedding.weight, retain_graph=True)
    return (gradient[text].abs().amax(dim=1) > 0).nonzero().flatten().tolist()


def _places(subject: Subject) -> list[int]:
    """Lengths of a text: within the first segment, about its border, and with full horizons within and at a border."""
    n, s = subject.reading_tokens, subject.segment_tokens
    return sorted({1, s - 1, s, n // s * s, n // s * s - s // 2})


def _queries(subject: Subject, generator: Generator) -> list[int]:
    """Positions about the first and the last borders of a text, and one other."""
    n, s = subject.reading_tokens, subject.segment_tokens
    last = (n // s - 1) * s
    drawn = int(torch.randint(n, (1,), generator=generator))
    return sorted({s - 1, s, last - 1, last, last + s - 1, drawn})


def _equal_chunks(n: int, size: int) -> list[int]:
    return [min(size, n - begin) for begin in range(0, n, size)]


def _random_chunks(n: int, s: int, generator: Generator) -> list[int]:
    """Lengths from 1 to 2 S that make up n."""
    lengths = torch.randint(1, 2 * s + 1, (n,), generator=generator).tolist()
    ends = [end for end in accumulate(lengths) if end < n]
    return [end - begin for begin, end in zip([0, *ends], [*ends, n])]


def _snapshot(state: Any) -> dict[str, Tensor]:
    return {name: t.clone(memory_format=torch.contiguous_format) for name, t in named_tensors(state).items()}


def _unchanged(before: Mapping[str, Tensor], now: Mapping[str, Tensor], doing: str) -> None:
    for name, tensor in before.items():
        if tensor.shape != now[name].shape or not torch.equal(tensor, now[name]):
            raise AssertionError(f"{doing} changed its {name}: {_difference(tensor, now[name])}")


def _agree(one: Tensor, other: Tensor, tolerance: float, what: str) -> None:
    if one.shape != other.shape:
        raise AssertionError(f"{what} have shapes {tuple(one.shape)} and {tuple(other.shape)}")
    far = (one - other).abs()
    # `not <=` and not `>`: a NaN must fail.
    if not far.max() <= tolerance:
        raise AssertionError(f"{what} {_difference(one, other)}, allowed {tolerance:.1e}")


def _difference(one: Tensor, other: Tensor) -> str:
    if one.shape != other.shape:
        return f"have shapes {tuple(one.shape)} and {tuple(other.shape)}"
    far = (one.double() - other.double()).abs().nan_to_num(torch.inf)
    place = tuple(int(i) for i in torch.unravel_index(far.argmax(), far.shape))
    return f"differ by up to {far.max():.3g} at {place}, {int((far > 0).sum())} of {far.numel()} numbers"


def _finite(logits: Tensor, what: str) -> None:
    if not logits.isfinite().all():
        raise AssertionError(f"{what} gives {int((~logits.isfinite()).sum())} logits that are not finite")


def _short(chunks: Sequence[int]) -> str:
    return str(list(chunks)) if len(chunks) <= 6 else f"[{', '.join(map(str, chunks[:5]))}, ... {len(chunks)} of them]"


def _span(positions: list[int]) -> str:
    if not positions:
        return "nowhere"
    gaps = positions[-1] - positions[0] + 1 - len(positions)
    return f"{positions[0]}..{positions[-1]}" + (f" but {gaps} within" if gaps else "")
