"""Continuations: nothing of the prompt is lost or doubled, and the model hears it up to the border."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import made_up_piece
from definition import tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import RELAXED, ROUNDING_S, STEP_S, Scripted, notes, same, shift

from ritornello import codec
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performance, Performer

PROMPTS_S = st.none() | st.integers(1, 9500).map(lambda ms: ms / 1000)


@pytest.fixture(scope="module")
def performer() -> Performer:
    return Performer(TorchEngine(tiny_model()))


@st.composite
def played_pieces(draw) -> Piece:
    """Up to 25 notes on a few keys within 6 s, times in milliseconds: repeated, overlapping and very short ones."""
    onset = st.integers(0, 6000)
    length = st.integers(0, 30) | st.integers(0, 3000)
    row = st.tuples(onset, length, st.integers(60, 64), st.integers(1, 127))
    rows = draw(st.lists(row, min_size=1, max_size=25))
    spans = draw(st.lists(st.tuples(onset, length), max_size=4))
    return Piece.from_notes(
        [(on / 1000, (on + long) / 1000, pitch, velocity) for on, long, pitch, velocity in rows],
        pedals=[(down / 1000, (down + long) / 1000) for down, long in spans],
    )


def keys_at_the_border(piece: Piece, prompt_s: float | None) -> tuple[int, dict[tuple[int, int], bool]]:
    """The border's step, and each (strike step, pitch) that is heard before it with: is it let go before it too?"""
    step, strikes, sounding, tokens = 0, {}, {}, codec.encode(piece)[:-1].tolist()
    border = total = sum(token - codec.SHIFT + 1 for token in tokens if codec.SHIFT <= token < codec.VELOCITY)
    if prompt_s is not None and nearest_step(prompt_s) < total:
        border = nearest_step(prompt_s)
    for token in tokens:
        if codec.SHIFT <= token < codec.VELOCITY:
            step += token - codec.SHIFT + 1
        if step >= border < total:
            break
        if token < codec.NOTE_OFF:
            sounding[token] = step
            strikes[step, token] = False
        elif token < codec.SHIFT:
            strikes[sounding[token - codec.NOTE_OFF], token - codec.NOTE_OFF] = True
    return border, strikes


def nearest_step(seconds: float) -> int:
    return int(np.floor(seconds * 100 + 0.5))


@settings(RELAXED, max_examples=300)
@given(piece=played_pieces(), prompt_s=PROMPTS_S, seed=st.integers(0, 3))
def test_nothing_is_lost_or_duplicated_at_the_border_and_every_note_stays_as_it_was_played(piece, prompt_s, seed):
    """To the last bit; of a note that sounds across the border the end alone is new."""
    # A key is struck once in a step: what becomes of notes that no hand could play is the codec's tests' matter.
    assume(len({(nearest_step(on), pitch) for on, _, pitch, _ in notes(piece)}) == len(piece))
    border, strikes = keys_at_the_border(piece, prompt_s)
    performer = Performer(Scripted([], rest=np.zeros(codec.N_EVENTS)))
    if not strikes:
        with pytest.raises(RitornelloError, match="no notes"):
            performer.continue_piece(piece, seconds=3, seed=seed, prompt_s=prompt_s)
        return
    performance = performer.continue_piece(piece, seconds=3, seed=seed, prompt_s=prompt_s)
    assert performance.prompt_s == border / 100
    found = [note for note in notes(performance.piece) if nearest_step(note[0]) < border]
    played = [note for note in notes(piece) if nearest_step(note[0]) < border]
    assert [(on, pitch, velocity) for on, _, pitch, velocity in found] == [
        (on, pitch, velocity) for on, _, pitch, velocity in played
    ]
    for (onset, offset, pitch, _), (_, there_s, *_) in zip(played, found):
        silent_s = piece.sounding_offset()[(piece.onset == onset) & (piece.pitch == pitch)][0]
        if strikes[nearest_step(onset), pitch] or nearest_step(silent_s) < border:
            assert there_s == min(offset, again_s(piece, onset, offset, pitch, border))
        else:
            assert border / 100 <= there_s <= (border + 300) / 100
    assert continued(performance) == [note for note in notes(performance.piece) if nearest_step(note[0]) >= border]


def continued(performance: Performance) -> list[tuple[float, float, int, int]]:
    """What was played alone, at the times of the whole."""
    alone = performance.continuation()
    whole = performance.piece
    assert len(alone) == sum(nearest_step(onset) >= nearest_step(performance.prompt_s) for onset in whole.onset)
    np.testing.assert_allclose(alone.onset + performance.prompt_s, whole.onset[len(whole) - len(alone) :], atol=1e-9)
    return notes(whole)[len(whole) - len(alone) :]


def again_s(piece: Piece, onset: float, offset: float, pitch: int, border: int) -> float:
    """When a key that was held beyond the border was struck again; infinity if it was let go before."""
    if offset < border / 100 + ROUNDING_S:
        return float("inf")
    return min(piece.onset[(piece.pitch == pitch) & (piece.onset > onset)], default=float("inf"))


@settings(RELAXED, max_examples=200)
@given(piece=played_pieces(), prompt_s=PROMPTS_S)
def test_the_pedal_is_kept_up_to_the_border_and_not_beyond(piece, prompt_s):
    border, strikes = keys_at_the_border(piece, prompt_s)
    if not strikes:
        return
    border_s = border / 100
    found = Performer(Scripted([shift(100)])).continue_piece(piece, seconds=2, seed=0, prompt_s=prompt_s).piece
    played, kept = (
        [(down, up) for down, up in spans.tolist() if abs(down - border_s) > ROUNDING_S]
        for spans in (piece.pedals, found.pedals)
    )
    expected = [(down, min(up, border_s)) for down, up in played if down < border_s]
    np.testing.assert_allclose(np.reshape(kept, (-1, 2)), np.reshape(expected, (-1, 2)), rtol=0, atol=ROUNDING_S)
    lifted = [span for span in played if span[1] < border_s]
    assert kept[: len(lifted)] == lifted


@settings(RELAXED, max_examples=100)
@given(piece=played_pieces(), prompt_s=st.none() | st.floats(0.01, 10), seconds=st.floats(0.02, 5))
def test_a_continuation_ends_where_it_was_asked_to(piece, prompt_s, seconds):
    if not keys_at_the_border(piece, prompt_s)[1]:
        return
    performance = Performer(Scripted([])).continue_piece(piece, seconds=seconds, seed=1, prompt_s=prompt_s)
    assert performance.piece.seconds <= performance.prompt_s + seconds + 2 * ROUNDING_S
    if prompt_s is not None:
        assert performance.prompt_s < prompt_s + ROUNDING_S


@pytest.mark.parametrize("prompt_s", [0.01, 2.0, 4.99, 5.0, 5.01, 7.3, None])
def test_a_real_model_s_continuation_keeps_what_was_played(performer, prompt_s):
    """Every note whose key is let go and which is silent by the border, to the last bit, and none of it twice."""
    piece = made_up_piece(np.random.default_rng(3), notes=80, seconds=10)
    piece = Piece.from_notes([*notes(piece), (0.0, 0.009, 20, 60)], pedals=piece.pedals)
    performance = performer.continue_piece(piece, seconds=5, seed=1, prompt_s=prompt_s)
    border_s = performance.prompt_s
    silent_s = np.maximum(piece.sounding_offset(), piece.onset + STEP_S)
    silent = np.maximum(silent_s, piece.offset) < border_s - ROUNDING_S
    before = [note for note, is_silent in zip(notes(piece), silent) if is_silent]
    found = notes(performance.piece)
    for note in before:
        assert found.count(note) == 1, note
    assert performance.piece.title == piece.title
    if prompt_s in (5.0, 5.01, 7.3, None):
        assert len(before) > 20


def test_the_model_hears_the_prompt_up_to_the_border_and_not_beyond():
    piece = Piece.from_notes([(0.0, 0.5, 60, 62), (1.0, 1.5, 62, 62), (2.0, 2.5, 64, 62)])
    engine = Scripted([shift(100)])
    Performer(engine).continue_piece(piece, seconds=0.5, seed=0, prompt_s=1.5)
    velocity = codec.VELOCITY + 15
    assert engine.read_tokens == [codec.START, velocity, 60, shift(50), 188, shift(50), 62]
    Performer(engine).continue_piece(piece, seconds=0.5, seed=0, prompt_s=1.51)
    assert engine.read_tokens == [codec.START, velocity, 60, shift(50), 188, shift(50), 62, shift(50), 190]


def test_a_note_across_the_border_is_let_go_where_the_model_lets_it_go():
    """It keeps the onset and the velocity that it was struck with, which the codec rounds."""
    piece = Piece.from_notes([(0.003, 9.0, 60, 61)], pedals=[(0.0, 9.5)])
    engine = Scripted([shift(60), codec.NOTE_OFF + 60, shift(100), shift(100), shift(100)])
    performance = Performer(engine).continue_piece(piece, seconds=2.5, seed=0, prompt_s=1.2)
    assert performance.prompt_s == 1.2
    assert notes(performance.piece) == [(0.003, 1.6, 60, 61)]
    assert performance.piece.pedals.tolist() == [[0.0, 1.2]]


def test_the_border_lies_where_it_was_asked_for_though_nothing_happens_there():
    """The model is not asked what it would have played before: it may only wait until then, or longer."""
    piece = Piece.from_notes([(0.0, 0.5, 60, 62), (9.0, 9.5, 62, 62)])
    rest = np.zeros(codec.N_EVENTS)
    performances = [
        Performer(Scripted([], rest)).continue_piece(piece, seconds=2, seed=s, prompt_s=1.7) for s in range(20)
    ]
    assert {performance.prompt_s for performance in performances} == {1.7}
    first = sorted(performance.continuation().onset[0] for performance in performances)
    assert 0 <= first[0] < first[-1]


def test_a_very_short_note_at_the_border_is_there_once():
    """It lasts less than a step, so its release is heard only in the step after it."""
    piece = Piece.from_notes([(0.0, 1.0, 50, 62), (2.99, 2.992, 60, 62), (3.5, 4.0, 62, 62)])
    engine = Scripted([shift(100)] * 2)
    performance = Performer(engine).continue_piece(piece, seconds=1, seed=0, prompt_s=3.0)
    assert [note[2] for note in notes(performance.piece)] == [50, 60]


@pytest.mark.parametrize("step", [58, 105, 221])
def test_a_release_halfway_between_two_steps_is_on_one_side_of_the_border_alone(step):
    """Multiplied by 100 such a time rounds up, to the border's step; divided by 0.01 it would round down."""
    halfway_s = (step * 10 + 5) / 1000
    piece = Piece.from_notes([(0.1, halfway_s, 60, 62), (0.1, step / 100, 64, 62), (8, 9, 72, 62)])
    engine = Scripted([shift(100), codec.NOTE_OFF + 60, *[shift(100)] * 2])
    performance = Performer(engine).continue_piece(piece, seconds=2, seed=0, prompt_s=(step + 1) / 100)
    assert performance.prompt_s == (step + 1) / 100
    assert notes(performance.piece) == [(0.1, step / 100 + 1, 60, 62), (0.1, step / 100, 64, 62)]


def test_a_key_held_beyond_the_border_but_struck_again_before_it_ends_where_it_was_struck():
    piece = Piece.from_notes([(0.0, 50.0, 60, 62), (1.0, 1.5, 60, 62), (2.0, 2.5, 70, 62)])
    engine = Scripted([shift(100)] * 2)
    performance = Performer(engine).continue_piece(piece, seconds=1, seed=0, prompt_s=1.8)
    assert notes(performance.piece) == [(0.0, 1.0, 60, 62), (1.0, 1.5, 60, 62)]


def test_a_continuation_follows_from_its_seed(performer):
    piece = made_up_piece(np.random.default_rng(4), notes=40, seconds=8)
    first, again, other = (performer.continue_piece(piece, seconds=8, seed=s, prompt_s=4) for s in (1, 1, 2))
    assert same(first.piece, again.piece)
    assert notes(first.piece) != notes(other.piece)


def test_more_prompt_than_there_is_means_all_of_it(performer):
    piece = made_up_piece(np.random.default_rng(5), notes=30, seconds=5)
    everything = performer.continue_piece(piece, seconds=3, seed=1)
    for prompt_s in (1e4, 1e9, 1e308, float("inf")):
        assert same(performer.continue_piece(piece, seconds=3, seed=1, prompt_s=prompt_s).piece, everything.piece)


def test_a_prompt_without_notes_is_refused_in_one_line(performer):
    for piece in (Piece.from_notes([]), Piece.from_notes([], pedals=[(0, 1)])):
        with pytest.raises(RitornelloError, match=r"^the prompt has no notes; give a piece with notes, or more of it$"):
            performer.continue_piece(piece, seconds=1, seed=0)


def test_a_prompt_that_stops_before_the_first_note_is_refused_naming_its_onset(performer):
    piece = Piece.from_notes([(4.25, 5, 60, 60), (6, 7, 62, 60)])
    with pytest.raises(RitornelloError, match=r"^the prompt has no notes; its first note is at 4\.25 s; [^\n]*$"):
        performer.continue_piece(piece, seconds=1, seed=0, prompt_s=4.25)
    assert performer.continue_piece(piece, seconds=1, seed=0, prompt_s=4.26).prompt_s == 4.26


@pytest.mark.parametrize("prompt_s", [0, -1, float("nan"), float("-inf")])
def test_an_absurd_prompt_length_is_refused_in_one_line(performer, prompt_s):
    with pytest.raises(RitornelloError, match=r"^a prompt of \S+ seconds holds no music; give a positive number$"):
        performer.continue_piece(Piece.from_notes([(0, 1, 60, 60)]), seconds=1, seed=0, prompt_s=prompt_s)
