"""The motif memory tells what followed the last time, from the tokens so far alone, in memory that is declared."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello import codec
from ritornello.codec import HINT_COLUMNS, N_HINTS, MotifMemory, hints, motifs
from ritornello.notes import Piece

NOTES = 64
MELODY = (60, 64, 67, 72, 71, 65, 62, 69)


def piece(pitches, *, start_s=0.0, every_s=0.25, length_s=0.2, velocity=62):
    """Strikes one after another; a chord is a tuple of pitches."""
    onset, pitch = [], []
    for i, struck in enumerate(pitches):
        for key in struck if isinstance(struck, tuple) else (struck,):
            onset.append(start_s + i * every_s)
            pitch.append(key)
    onset = np.array(onset)
    return onset, onset + length_s, np.array(pitch), np.full(len(onset), velocity)


def tokens_of(*parts):
    return codec.encode(Piece(*(np.concatenate(values) for values in zip(*parts)))).astype(np.int64)


def told(row):
    """A hint as what its columns say; None where they have nothing to tell."""
    event, pitch, wait, loudness, second, followed, age = (int(i) for i in row)
    return {
        "event": None if event == codec.END else event - motifs.EVENT,
        "pitch": None if pitch == motifs.WAIT - 1 else pitch - motifs.PITCH,
        "wait": None if wait == motifs.LOUDNESS - 1 else wait - motifs.WAIT,
        "velocity": None if loudness == motifs.SECOND - 1 else loudness - motifs.LOUDNESS,
        "second": None if second == motifs.FOLLOWED - 1 else second - motifs.SECOND,
        "followed": followed - motifs.FOLLOWED,
        "age": None if age == N_HINTS - 1 else age - motifs.AGE,
    }


def after_each_strike(tokens):
    """What is told after every strike, in order."""
    rows = MotifMemory(NOTES).read(tokens)
    return [told(rows[i]) for i in np.flatnonzero(tokens < codec.NOTE_OFF)]


# ---- what is told ----


def test_an_exact_repeat_is_told_event_by_event():
    """From the fourth strike of the second time on everything is foreseen but the pause before it and the end."""
    tokens = tokens_of(piece(MELODY), piece(MELODY, start_s=10))
    known = np.flatnonzero(tokens < codec.NOTE_OFF)[len(MELODY) + 3]
    events = hints(tokens, notes=NOTES)[:, 0]
    last_strike = np.flatnonzero(tokens < codec.NOTE_OFF)[-1]
    assert events[known + 1 : last_strike + 1].tolist() == tokens[known + 1 : last_strike + 1].tolist()
    first_time = slice(0, np.flatnonzero(tokens < codec.NOTE_OFF)[len(MELODY)])
    assert set(events[first_time].tolist()) == {codec.END}  # nothing to tell
    assert set(hints(tokens, notes=NOTES)[first_time, 1].tolist()) == {motifs.WAIT - 1}


def test_the_next_strike_is_told_with_its_time_and_loudness():
    """Four strikes a quarter of a second apart, so the next is 25 steps away; bin 15 is that of velocity 62.

    It was struck at 1 s, and is told at 10.75 s: 9.75 s ago is the class of 8 to 16 s, the sixth.
    """
    strikes = after_each_strike(tokens_of(piece(MELODY), piece(MELODY, start_s=10)))
    at = strikes[len(MELODY) + 3]  # the fourth of the second time: 72 was struck, 71 and 65 came next
    assert at == {
        "event": codec.SHIFT + 19,
        "pitch": 71,
        "wait": 25,
        "velocity": 15,
        "second": 65,
        "followed": 3,
        "age": 5,
    }
    assert strikes[len(MELODY) + 4]["followed"] == 4
    assert [s["pitch"] for s in strikes[: len(MELODY) + 3]] == [None] * (len(MELODY) + 3)


def test_the_wait_shrinks_as_time_goes_by():
    tokens = tokens_of(piece(MELODY), piece(MELODY, start_s=10))
    fourth = np.flatnonzero(tokens < codec.NOTE_OFF)[len(MELODY) + 3]
    rows = MotifMemory(NOTES).read(tokens)
    waits = [told(row)["wait"] for row in rows[fourth : fourth + 4]]  # strike, shift 200 ms, release, shift 50 ms
    assert waits == [25, 5, 5, 0]


def test_a_transposed_return_is_told_at_its_own_pitch():
    strikes = after_each_strike(tokens_of(piece(MELODY), piece([p + 5 for p in MELODY], start_s=10)))
    assert [s["pitch"] for s in strikes[-5:-1]] == [p + 5 for p in MELODY[4:]]


def test_a_chord_may_be_spread_in_another_order():
    """The second time the middle chord is rolled from above; its keys and what follows are still foreseen."""
    chord = [60, 64, 67, 72, (48, 55, 64), 71, 65]
    rolled = [60, 64, 67, 72]
    parts = [
        piece(chord),
        piece(rolled, start_s=10),
        piece([64, 55, 48], start_s=11, every_s=0.02),
        piece([71, 65], start_s=11.25),
    ]
    strikes = after_each_strike(tokens_of(*parts))
    assert [s["pitch"] for s in strikes[-6:-1]] == [48, 48, 48, 71, 65]


@pytest.mark.parametrize("change", ["left_out", "added", "wrong"])
def test_a_slip_does_not_lose_the_passage(change):
    long = (*MELODY, 74, 70, 63, 58, 66)
    again = list(long)
    if change == "left_out":
        del again[6]
    elif change == "added":
        again.insert(6, 80)
    else:
        again[6] = 80
    strikes = after_each_strike(tokens_of(piece(long), piece(again, start_s=10)))
    assert [s["pitch"] for s in strikes[-5:-1]] == [70, 63, 58, 66]


def test_a_passage_that_is_left_is_told_no_more():
    """Five strikes in a row that it does not have, and the pointer is lost; four are borne."""
    strikes = after_each_strike(
        tokens_of(piece((*MELODY, 74, 70)), piece((*MELODY[:6], 30, 31, 33, 36, 40), start_s=10))
    )
    assert [s["pitch"] is None for s in strikes[-5:]] == [False] * 4 + [True]


def test_a_key_that_still_sounds_is_let_go_before_it_is_told_again():
    """71 is held from before the passage in which it is struck next: when that is due, its release is told."""
    tokens = tokens_of(piece(MELODY), piece([71], start_s=9.5, length_s=3), piece(MELODY[:6], start_s=10))
    events = hints(tokens, notes=NOTES)[:, 0]
    some = np.flatnonzero(events != codec.END)
    assert codec.legal_events(codec.contexts(tokens))[some, events[some]].all()
    let_go = np.flatnonzero(tokens == codec.NOTE_OFF + 71)[1]
    assert tokens[let_go + 1] == 71
    assert events[let_go] == codec.NOTE_OFF + 71


def test_the_latest_of_two_places_is_told():
    """The same four notes went on to 71 first and to 50 later."""
    parts = [piece((*MELODY[:4], 71)), piece((*MELODY[:4], 50), start_s=10), piece(MELODY[:4], start_s=20)]
    assert after_each_strike(tokens_of(*parts))[-1]["pitch"] == 50


def test_the_better_match_is_told():
    """A pointer that has followed seven strikes is not given up for a place that matches four."""
    parts = [piece(MELODY), piece((*MELODY[3:7], 40), start_s=10), piece(MELODY[:7], start_s=20)]
    assert after_each_strike(tokens_of(*parts))[-1]["pitch"] == MELODY[7]


def test_keys_are_let_go_when_they_were():
    """The old passage held its notes for 0.6 s, over the next two: after a strike the oldest goes first."""
    parts = [piece(MELODY, length_s=0.6), piece(MELODY, start_s=10, length_s=0.6)]
    tokens = tokens_of(*parts)
    rows = hints(tokens, notes=NOTES)
    strikes = np.flatnonzero(tokens < codec.NOTE_OFF)
    inside = np.arange(strikes[-2] + 1, strikes[-1])
    assert rows[inside, 0].tolist() == tokens[inside].tolist()
    assert codec.NOTE_OFF + MELODY[4] in tokens[inside]


def test_nothing_is_told_of_what_is_forgotten():
    """A memory of 16 strikes has lost a melody after 16 others; one of 64 has not."""
    other = [30 + (7 * i) % 23 for i in range(17)]
    tokens = tokens_of(piece(MELODY), piece(other, start_s=10), piece(MELODY, start_s=20))
    last = np.flatnonzero(tokens < codec.NOTE_OFF)[-2]
    assert told(MotifMemory(64).read(tokens)[last])["pitch"] == MELODY[-1]
    assert told(MotifMemory(16).read(tokens)[last])["pitch"] != MELODY[-1]


# ---- what is promised of any stream ----


@pytest.mark.parametrize("notes", [1, 5, NOTES])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_events_are_taken_and_every_column_stays_in_its_ids(notes, data):
    few = st.sampled_from([60, 62, 64, 128 + 60, 128 + 62, 256, 300, 355, 360, 371, codec.END, codec.START, 9999, -1])
    tokens = data.draw(st.lists(few | st.integers(0, codec.N_EVENTS - 1), max_size=120))
    rows = MotifMemory(notes).read(tokens)
    firsts = (motifs.EVENT, motifs.PITCH, motifs.WAIT, motifs.LOUDNESS, motifs.SECOND, motifs.FOLLOWED)
    firsts += (motifs.AGE, N_HINTS)
    assert rows.shape == (len(tokens), HINT_COLUMNS)
    for column, (first, after) in enumerate(itertools.pairwise(firsts)):
        assert np.all((rows[:, column] >= first) & (rows[:, column] < after))


def test_every_event_that_is_told_of_a_real_performance_is_legal(asap_tokens):
    for tokens in asap_tokens:
        events = hints(tokens, notes=4096)[:, 0]
        legal = codec.legal_events(codec.contexts(tokens))
        some = events != codec.END
        assert some.mean() > 0.2
        assert legal[np.flatnonzero(some), events[some]].all()


def test_half_of_what_has_followed_sixteen_strikes_is_foreseen(asap_tokens):
    """Performances return to what they played, and the pointer is at the right place when it says so."""
    right = []
    for tokens in asap_tokens:
        rows = hints(tokens, notes=16_384)
        sure = (rows[:, 5] == motifs.AGE - 1) & (tokens < codec.NOTE_OFF)
        right.append(rows[sure, 1] - motifs.PITCH == tokens[sure])
    right = np.concatenate(right)
    assert len(right) > 100
    assert right.mean() > 0.5


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_a_hint_depends_on_the_tokens_so_far_alone(seed, cuts):
    """Read in any chunks, or cut off anywhere, the same rows."""
    tokens = repeating(seed)
    whole, memory = hints(tokens, notes=NOTES), MotifMemory(NOTES)
    inputs = np.concatenate([[codec.START], tokens[:-1]])
    bounds = [0, *sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]
    parts = [memory.read(inputs[a:b]) for a, b in itertools.pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)
    cut = len(tokens) // 2
    assert np.array_equal(hints(tokens[:cut], notes=NOTES), whole[:cut])


def test_a_saved_memory_goes_on_identically_and_a_copy_is_its_own():
    tokens = repeating(3)
    memory = MotifMemory(NOTES)
    memory.read(tokens[:150])
    saved, twin = memory.to_array(), memory.copy()
    expected = memory.read(tokens[150:])
    assert np.array_equal(MotifMemory.from_array(saved).read(tokens[150:]), expected)
    assert np.array_equal(twin.read(tokens[150:]), expected)
    assert len(np.unique(expected[:, 1])) > 10  # there was something to tell


@pytest.mark.parametrize("notes", [1, NOTES, 5000])
def test_bytes_are_declared_and_never_grow(notes):
    memory = MotifMemory(notes)
    empty = memory.to_array().nbytes
    memory.read(np.concatenate([repeating(seed) for seed in range(4)]))
    assert memory.nbytes == empty == memory.to_array().nbytes == motifs.memory_bytes(notes)


def repeating(seed):
    """Made-up music in which passages return."""
    rng = np.random.default_rng(seed)
    phrase = rng.integers(40, 80, 12)
    parts, start = [], 0.0
    for _ in range(6):
        notes = np.where(rng.random(12) < 0.1, rng.integers(40, 80, 12), phrase + rng.choice([0, 0, 5]))
        parts.append(piece(notes.tolist(), start_s=start, every_s=float(rng.choice([0.1, 0.25]))))
        start += 12 * 0.25 + 0.5
    return tokens_of(*parts)


@pytest.fixture(scope="module")
def asap_tokens(asap):
    from ritornello import read_midi

    names = ("Bach/Prelude/bwv_848", "Beethoven/Piano_Sonatas/18-2", "Schubert/Impromptu_op142/3")
    found = [sorted((asap / name).glob("*.mid")) for name in names]
    return [codec.encode(read_midi(files[0])).astype(np.int64) for files in found if files]


# ---- what is called back ----

THEME = (*MELODY, 74, 70, 63, 58, 66, 61, 59, 73, 75, 68, 57, 76, 77, 56, 55, 78, 79, 54, 80, 53, 81, 52)
ELSEWHERE = tuple(30 + (7 * i * i) % 19 for i in range(20))  # nothing of the theme, below it


def test_a_return_is_known_from_its_first_strike_on():
    """Thirty strikes that come again after 25 s; a theme that is back after 10 s, or for ten strikes, is no return."""
    theme, between = piece(THEME), piece(ELSEWHERE, start_s=10)
    tokens = tokens_of(theme, between, piece(THEME, start_s=25))
    assert codec.returns(tokens, notes=NOTES * 4) == {len(THEME) + len(ELSEWHERE): (0, 0)}
    moved = tokens_of(theme, between, piece([p - 2 for p in THEME[3:]], start_s=25))
    assert codec.returns(moved, notes=NOTES * 4) == {len(THEME) + len(ELSEWHERE): (3, -2)}
    assert codec.returns(tokens_of(theme, piece(THEME, start_s=10)), notes=NOTES * 4) == {}
    assert codec.returns(tokens_of(theme, between, piece(THEME[:10], start_s=25)), notes=NOTES * 4) == {}


def test_what_is_called_back_is_told_from_its_first_strike_on():
    """The call stands behind the last strike before the return: its time is not told, all that follows it is."""
    tokens = tokens_of(piece(THEME), piece(ELSEWHERE, start_s=10), piece(THEME, start_s=25))
    rows = hints(tokens, notes=NOTES * 4, calls=codec.returns(tokens, notes=NOTES * 4))
    strikes = np.flatnonzero(tokens < codec.NOTE_OFF)
    first = strikes[len(THEME) + len(ELSEWHERE)]
    assert told(rows[first])["pitch"] == THEME[0]
    assert told(rows[first])["second"] == THEME[1]
    assert told(rows[first])["event"] is None
    assert told(rows[first])["wait"] is None
    later = strikes[len(THEME) + len(ELSEWHERE) + 1 :]
    assert [told(rows[at])["pitch"] for at in later] == list(THEME[1:])
    assert rows[first + 1 : strikes[-1] + 1, 0].tolist() == tokens[first + 1 : strikes[-1] + 1].tolist()
    called = rows[:, 5] == motifs.CALLED
    assert not called[: strikes[len(THEME) + len(ELSEWHERE) - 1] + 1].any()
    assert [called[at] for at in later] == [n < codec.CALL_STRIKES for n in range(1, len(THEME))]


def test_a_call_that_is_not_followed_is_given_up():
    memory = MotifMemory(NOTES * 4, may_call=True)
    memory.read(tokens_of(piece(THEME)))
    memory.call(2)
    assert memory.called == codec.CALL_STRIKES
    assert told(memory.hint())["pitch"] == THEME[2]
    memory.read(np.array([30, 31, 33, 36]))
    assert memory.called == codec.CALL_STRIKES
    memory.read(np.array([40]))
    assert memory.called == 0
    assert told(memory.hint())["pitch"] is None


def test_a_passage_that_returns_is_insisted_on_to_its_end():
    """Ten strikes of the theme, then no more, though the music goes on as the theme does and the pointer with it."""
    memory = MotifMemory(NOTES * 4, may_call=True)
    memory.read(tokens_of(piece(THEME), piece(ELSEWHERE, start_s=10)))
    memory.call(2, strikes=10)
    for strike in range(2, 16):
        assert memory.returning == (strike < 12)
        insisted = memory.insisted
        assert (insisted >= 0) == (strike < 12)
        if strike == 2:
            assert insisted == THEME[2], "when it begins is not known"
        memory.read(np.array([THEME[strike], codec.SHIFT + 9, codec.NOTE_OFF + THEME[strike]]))
    assert memory.followed == 14


def test_a_passage_that_is_lost_returns_no_more():
    memory = MotifMemory(NOTES * 4, may_call=True)
    memory.read(tokens_of(piece(THEME)))
    memory.call(2, strikes=20)
    memory.read(np.array([30, 31, 33, 36]))
    assert memory.returning
    memory.read(np.array([40]))
    assert not memory.returning


def test_a_passage_that_is_left_for_another_returns_no_more():
    """The theme is called back and followed; then the music goes as it went before the theme, and the pointer there."""
    memory = MotifMemory(NOTES * 4, may_call=True)
    memory.read(tokens_of(piece(ELSEWHERE), piece(THEME, start_s=10)))
    memory.call(len(ELSEWHERE) + 2, strikes=28)
    memory.read(np.array(THEME[2:27]))
    assert memory.returning
    memory.read(np.array(ELSEWHERE[:4]))
    assert memory._next == 4
    assert not memory.returning


def test_what_is_called_is_told_as_followed_long_to_models_that_know_no_calls():
    memory = MotifMemory(NOTES * 4)
    memory.read(tokens_of(piece(THEME)))
    memory.call(2, shift=1)
    assert told(memory.hint())["followed"] == 16
    assert told(memory.hint())["pitch"] == THEME[2] + 1


@pytest.mark.parametrize("place", [-1, 30, 31])
def test_only_what_is_remembered_can_be_called_back(place):
    memory = MotifMemory(NOTES * 4)
    memory.read(tokens_of(piece(THEME)))
    with pytest.raises(ValueError, match="not remembered"):
        memory.call(place)


def test_a_better_match_does_not_take_a_call_away():
    """What leads to the call once led to the theme's first eight strikes and others; the call is to the whole theme."""
    other = (*ELSEWHERE[:12], *THEME[:8], 20, 22)
    again = piece((*ELSEWHERE[:12], *THEME[:12]), start_s=25)
    tokens = tokens_of(piece(THEME), piece(other, start_s=12), again)
    before = len(THEME) + len(other) + 12
    rows = MotifMemory(NOTES * 4, may_call=True).read(tokens, {before: (0, 0)})
    eighth = np.flatnonzero(tokens < codec.NOTE_OFF)[before + 7]
    assert told(rows[eighth])["pitch"] == THEME[8]
    assert told(MotifMemory(NOTES * 4).read(tokens)[eighth])["pitch"] == 20, "uncalled it is the later one"
