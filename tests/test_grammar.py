"""The grammar: each rule by name, then all rules against a plain re-reading of the design's sentences."""

from __future__ import annotations

import numpy as np
import pytest
from events import off, on, shift, velocity
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.codec import END, N_EVENTS, PAD, START, Context, Grammar, contexts, decode, encode, legal_events

ALL_PITCHES = set(range(128))
ALL_BINS = set(range(32))
ALL_SHIFTS = set(range(1, 101))


def after(*tokens: int) -> dict[str, set[int]]:
    """What may follow, in the events' own numbers; read both at once and token by token."""
    grammar = Grammar()
    for token in tokens:
        grammar.advance(token)
    at_once = legal_events(contexts([*tokens, END]))[-1]
    assert at_once.shape == (N_EVENTS,)
    assert at_once.tolist() == grammar.legal().tolist()
    legal = np.flatnonzero(at_once)
    kinds = {"on": (0, 128), "off": (128, 256), "shift": (256, 356), "velocity": (356, 388), "end": (388, 389)}
    numbers = {
        name: {int(token) - low for token in legal if low <= token < high} for name, (low, high) in kinds.items()
    }
    numbers["shift"] = {shorter + 1 for shorter in numbers["shift"]}
    return numbers


PLAYING = (velocity(10), on(60), on(64), shift(5))  # two keys sound, a new step has begun

# ---- each rule ----


def test_at_the_start_a_velocity_a_shift_or_the_end_may_come():
    assert after() == {"on": set(), "off": set(), "shift": ALL_SHIFTS, "velocity": ALL_BINS, "end": {0}}


def test_only_a_sounding_key_is_released():
    assert after(*PLAYING)["off"] == {60, 64}
    assert after(*PLAYING, off(60), shift(1))["off"] == {64}


def test_only_a_silent_key_is_struck():
    assert after(*PLAYING)["on"] == ALL_PITCHES - {60, 64}
    assert after(*PLAYING, off(60), shift(1))["on"] == ALL_PITCHES - {64}


def test_a_key_may_be_struck_again_in_the_step_of_its_release():
    assert after(*PLAYING, off(64))["on"] == ALL_PITCHES - {60}


def test_within_a_step_no_release_follows_a_strike():
    assert after(*PLAYING, on(50))["off"] == set()
    assert after(*PLAYING, off(60), on(50))["off"] == set()
    assert after(*PLAYING, on(50), shift(1))["off"] == {50, 60, 64}


def test_within_a_step_releases_ascend():
    assert after(*PLAYING, off(60))["off"] == {64}
    assert after(*PLAYING, off(64))["off"] == set()


def test_within_a_step_strikes_ascend():
    assert after(*PLAYING, on(62))["on"] == set(range(65, 128)) | {63}
    assert after(*PLAYING, on(127))["on"] == set()
    assert after(*PLAYING, on(62), shift(1))["on"] == ALL_PITCHES - {60, 62, 64}


def test_strikes_begin_again_at_the_lowest_pitch_after_the_releases_of_a_step():
    assert after(*PLAYING, off(60), off(64))["on"] == ALL_PITCHES


def test_a_velocity_within_a_step_keeps_the_order_of_pitches():
    assert after(*PLAYING, on(62), velocity(3))["on"] == set(range(65, 128)) | {63}


def test_after_a_velocity_only_a_strike_comes():
    nothing = {"off": set(), "shift": set(), "velocity": set(), "end": set()}
    assert after(*PLAYING, velocity(3)) == nothing | {"on": ALL_PITCHES - {60, 64}}
    assert after(velocity(3)) == nothing | {"on": ALL_PITCHES}


def test_a_velocity_differs_from_the_current_one():
    assert after(*PLAYING)["velocity"] == ALL_BINS - {10}
    assert after(*PLAYING, velocity(31), on(70))["velocity"] == ALL_BINS - {31}
    assert after(velocity(0), on(1))["velocity"] == ALL_BINS - {0}


def test_no_strike_before_the_first_velocity():
    assert after(shift(100))["on"] == set()
    assert after(shift(100), velocity(0))["on"] == ALL_PITCHES
    assert after(velocity(0), on(1), shift(1))["on"] == ALL_PITCHES - {1}


def test_no_velocity_where_no_strike_can_follow_it():
    assert after(*PLAYING, on(127))["velocity"] == set()
    assert after(*PLAYING, on(126))["velocity"] == ALL_BINS - {10}
    every_key = (velocity(1), *map(on, range(128)), shift(1))
    assert after(*every_key) == {"on": set(), "off": ALL_PITCHES, "shift": set(), "velocity": set(), "end": set()}


@pytest.mark.parametrize("steps", [1, 50, 99])
def test_after_a_shift_shorter_than_a_second_no_shift_comes(steps):
    assert after(*PLAYING[:-1], shift(steps))["shift"] == set()
    assert after(shift(100), shift(steps))["shift"] == set()


def test_after_a_shift_of_a_second_any_shift_comes():
    assert after(*PLAYING[:-1], shift(100))["shift"] == ALL_SHIFTS
    assert after(shift(100), shift(100))["shift"] == ALL_SHIFTS


def test_after_a_note_event_time_may_pass_again():
    assert after(*PLAYING, on(70))["shift"] == ALL_SHIFTS
    assert after(*PLAYING, off(60))["shift"] == ALL_SHIFTS


def test_the_end_comes_only_when_no_key_sounds():
    assert after(*PLAYING)["end"] == set()
    assert after(*PLAYING, off(60))["end"] == set()
    assert after(*PLAYING, off(60), off(64))["end"] == {0}
    assert after(*PLAYING, off(60), off(64), shift(7))["end"] == set()
    assert after(*PLAYING, off(60), off(64), shift(100))["end"] == set()
    assert after()["end"] == {0}
    assert after(*PLAYING, off(60), off(64), velocity(7))["end"] == set()


def test_start_and_padding_have_no_place_in_the_mask():
    assert (N_EVENTS, START, PAD) == (389, 389, 390)
    assert legal_events(contexts([*PLAYING, END])).shape == (len(PLAYING) + 1, 389)
    assert Grammar().legal().shape == (389,)


@pytest.mark.parametrize("stranger", [END, START, PAD, -1, -200, 391, 65_535])
def test_specials_and_unknown_integers_change_nothing(stranger):
    for prefix in [(), PLAYING, (*PLAYING, off(60)), (*PLAYING, on(70)), (*PLAYING, velocity(3))]:
        assert after(*prefix, stranger) == after(*prefix)


# ---- what is given ----


def test_row_i_has_seen_the_tokens_before_i():
    whole = legal_events(contexts(PLAYING))
    for count in range(len(PLAYING)):
        grammar = Grammar()
        for token in PLAYING[:count]:
            grammar.advance(token)
        assert whole[count].tolist() == grammar.legal().tolist()


def test_no_tokens_have_no_rows():
    assert legal_events(contexts([])).shape == (0, 389)


def test_the_sounding_keys_are_told_as_a_copy():
    grammar = Grammar()
    for token in PLAYING:
        grammar.advance(token)
    told = grammar.sounding
    assert np.flatnonzero(told).tolist() == [60, 64]
    told[:] = True
    assert np.flatnonzero(grammar.sounding).tolist() == [60, 64]


# ---- all rules at once, against a reader that starts from the beginning every time ----


def may_follow(prefix: list[int]) -> list[int]:
    keys, step, current, last_shift, previous = set(), [], None, None, None
    for token in prefix:
        if token < 0 or token >= 388:
            continue
        last_shift = None
        if token < 128:
            keys.add(token)
            step.append(("on", token))
            previous = "on"
        elif token < 256:
            keys.discard(token - 128)
            step.append(("off", token - 128))
            previous = "off"
        elif token < 356:
            step = []
            last_shift = token - 255
            previous = "shift"
        else:
            current = token - 356
            previous = "velocity"

    # Of a step only the last note event is looked at: in a legal step it is the highest, in nonsense all that counts.
    kind, pitch = step[-1] if step else ("off", -1)
    strikes = [p for p in range(128) if p not in keys and (kind == "off" or p > pitch)]
    legal = list(strikes) if current is not None else []
    if previous == "velocity":
        return legal
    if kind == "off":
        legal += [128 + p for p in sorted(keys) if p > pitch]
    if last_shift is None or last_shift == 100:
        legal += [255 + steps for steps in range(1, 101)]
    if strikes:
        legal += [356 + bin for bin in range(32) if bin != current]
    if not keys and previous != "shift":
        legal.append(388)
    return legal


def masks_token_by_token(tokens: list[int]) -> np.ndarray:
    grammar, masks = Grammar(), []
    for token in tokens:
        masks.append(grammar.legal())
        grammar.advance(token)
    return np.array(masks)


def agrees_with_a_plain_reader(tokens: list[int]) -> None:
    expected = np.zeros((len(tokens), N_EVENTS), bool)
    for row in range(len(tokens)):
        expected[row, may_follow(tokens[:row])] = True
    np.testing.assert_array_equal(legal_events(contexts(np.array(tokens))), expected)
    np.testing.assert_array_equal(masks_token_by_token(tokens), expected)


FEW = st.sampled_from([0, 1, 60, 61, 126, 127])
NONSENSE = st.one_of(
    FEW.map(on),
    FEW.map(off),
    st.sampled_from([1, 99, 100]).map(shift),
    st.sampled_from([0, 1, 31]).map(velocity),
    st.sampled_from([END, START, PAD, -1, 1_000]),
    st.integers(0, 390),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(NONSENSE, min_size=1, max_size=40))
def test_any_stream_is_judged_as_a_plain_reader_judges_it(tokens):
    agrees_with_a_plain_reader(tokens)


@settings(deadline=None, max_examples=250)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1_000)), min_size=1, max_size=50))
def test_a_legal_stream_is_judged_as_a_plain_reader_judges_it(choices):
    tokens: list[int] = []
    for kind, which in choices:
        legal = may_follow(tokens)
        low, high = [(0, 128), (128, 256), (256, 356), (356, 388), (0, 388)][kind]
        wanted = [token for token in legal if low <= token < high] or [token for token in legal if token != END]
        tokens.append(wanted[which % len(wanted)])
    agrees_with_a_plain_reader(tokens)


# ---- streams that obey ----


def legal_walk(rng: np.random.Generator, events: int) -> list[int]:
    """Legal events at random; fails if there is none left to choose. Long runs of one kind reach the corners."""
    grammar, walk, kind = Grammar(), [], 0
    bounds = [(0, 128), (128, 256), (256, 356), (356, 388)]
    while len(walk) < events:
        legal = np.flatnonzero(grammar.legal())
        legal = legal[legal != END]
        assert len(legal), f"stuck after {walk[-5:]}"
        if rng.random() < 0.3:
            kind = int(rng.integers(4))
        low, high = bounds[kind]
        wanted = legal[(legal >= low) & (legal < high)]
        if kind < 2:
            wanted = wanted[: int(rng.integers(1, 20))]  # low pitches first: more of them fit into one step
        token = int(rng.choice(wanted if len(wanted) else legal))
        walk.append(token)
        grammar.advance(token)
    return walk


def closing(walk: list[int]) -> list[int]:
    """Legal events that end a walk: what a velocity announced, the open keys' releases, END."""
    grammar, tail = Grammar(), []
    for token in walk:
        grammar.advance(token)

    def add(token: int) -> None:
        assert grammar.legal()[token]
        tail.append(token)
        grammar.advance(token)

    if not grammar.sounding.any() and walk and shift(1) <= walk[-1] <= shift(100):  # a piece ends with a release
        add(int(np.flatnonzero(grammar.legal()[velocity(0) : velocity(32)])[0]) + velocity(0))
        walk = [*walk, *tail]
    if walk and walk[-1] >= velocity(0):
        add(int(np.argmax(grammar.legal())))
    if not grammar.legal()[END]:
        if grammar.legal()[shift(1)]:
            add(shift(1))
        for pitch in np.flatnonzero(grammar.sounding).tolist():
            add(off(pitch))
    add(END)
    return tail


@pytest.mark.parametrize("seed", range(8))
def test_a_walk_of_legal_events_never_gets_stuck_and_decodes_without_loss(seed):
    rng = np.random.default_rng(seed)
    walk = legal_walk(rng, 1_500)
    for length in (1_500, int(rng.integers(1, 1_500)), int(rng.integers(1, 40))):
        told = walk[:length] + closing(walk[:length])
        piece = decode(told)
        assert len(piece) == sum(token < 128 for token in told)
        assert encode(piece).tolist() == told


def test_a_long_walk_is_judged_alike_at_once_and_token_by_token():
    walk = legal_walk(np.random.default_rng(100), 3_000)
    np.testing.assert_array_equal(legal_events(contexts(walk)), masks_token_by_token(walk))


# ---- other arrays ----


def as_torch(context: Context):
    torch = pytest.importorskip("torch")
    return torch, Context(*(torch.from_numpy(field) for field in context))


def test_torch_tensors_give_what_numpy_gives():
    context = contexts(legal_walk(np.random.default_rng(101), 500))
    torch, tensors = as_torch(context)
    legal = legal_events(tensors, torch)
    assert legal.dtype == torch.bool
    np.testing.assert_array_equal(legal.numpy(), legal_events(context))


def test_the_mask_is_made_on_the_device_of_the_context():
    torch, tensors = as_torch(contexts(PLAYING))
    legal = legal_events(Context(*(field.to("meta") for field in tensors)), torch)
    assert legal.device.type == "meta"
    assert legal.shape == (len(PLAYING), N_EVENTS)


def test_any_leading_axes_are_kept():
    context = contexts(legal_walk(np.random.default_rng(102), 60))
    folded = Context(*(field.reshape(3, 20, *field.shape[1:]) for field in context))
    flat = legal_events(context)
    np.testing.assert_array_equal(legal_events(folded), flat.reshape(3, 20, N_EVENTS))
    torch, tensors = as_torch(folded)
    np.testing.assert_array_equal(legal_events(tensors, torch).numpy(), flat.reshape(3, 20, N_EVENTS))
