"""Playing: seeds decide, every event is legal, pieces stop where asked, and streams give what pieces hold."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
from conftest import made_up_piece
from definition import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import RELAXED, ROUNDING_S, STEP_S, Greedy, Scripted, an_ending_engine, notes, same, shift
from tiny import save_model

from ritornello import codec
from ritornello.engines.framework import TorchEngine
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performer, load, paced
from ritornello.sampling import Sampling
from ritornello.take import LONGEST_S


@pytest.fixture(scope="module")
def performer() -> Performer:
    return Performer(TorchEngine(tiny_model()))


def assert_legal(tokens: list[int]) -> None:
    grammar = codec.Grammar()
    for place, token in enumerate(tokens):
        assert grammar.legal()[token], f"event {place}: {token}"
        grammar.advance(token)


# ---- new pieces ----


def test_the_same_seed_gives_the_same_piece_and_another_seed_another(performer):
    first, again, other = (performer.generate(seconds=20, seed=seed) for seed in (3, 3, 4))
    assert same(first.piece, again.piece)
    assert (first.tokens, first.ended) == (again.tokens, again.ended)
    assert notes(first.piece) != notes(other.piece)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.3, 1.0), Sampling(0.5, 0.8), Sampling(1.0, 1.0, 0.2)])
def test_every_event_is_legal(sampling):
    performer = Performer(TorchEngine(tiny_model()), sampling)
    for seed in range(3):
        assert_legal([token for token, _ in itertools.islice(performer.events(np.random.default_rng(seed)), 200)])


def test_every_event_after_a_prompt_is_legal(performer):
    piece = made_up_piece(np.random.default_rng(1), notes=60, seconds=12)
    prompt = codec.encode(piece)
    prompt = prompt[codec.steps_of(prompt) < 600]
    after = [token for token, _ in itertools.islice(performer.events(np.random.default_rng(1), prompt=prompt), 200)]
    assert_legal([*prompt.tolist(), *after])


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 100.0])
def test_any_temperature_gets_to_the_end(temperature):
    performer = Performer(TorchEngine(tiny_model()), Sampling(temperature, 1.0))
    assert performer.generate(seconds=3, seed=1).piece.seconds <= 3


def test_the_model_reads_the_start_mark_then_each_event_once():
    engine = Scripted([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END])
    performance = Performer(engine).generate(seconds=60, seed=0)
    assert engine.read_tokens == [codec.START, codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60]
    assert notes(performance.piece) == [(0.0, 0.5, 60, 38)]
    assert performance.ended
    assert performance.tokens == 5
    assert performance.prompt_s == 0


@settings(RELAXED, max_examples=25)
@given(seconds=st.floats(0.011, 15), seed=st.integers(0, 5))
def test_a_piece_stops_at_the_length_asked_for_with_every_note_closed(performer, seconds, seed):
    performance = performer.generate(seconds=seconds, seed=seed)
    piece = performance.piece
    if len(piece):
        assert piece.seconds <= seconds + ROUNDING_S
        assert np.all(piece.offset - piece.onset >= STEP_S - 1e-9)


def test_notes_that_still_sound_at_the_end_are_closed_there():
    engine = Scripted([codec.VELOCITY + 9, 60, shift(50), 64, shift(100), 67, shift(100)])
    performance = Performer(engine).generate(seconds=1.7, seed=0)
    assert notes(performance.piece) == [(0.0, 1.7, 60, 38), (0.5, 1.7, 64, 38), (1.5, 1.7, 67, 38)]
    assert not performance.ended


def test_nothing_is_struck_at_or_after_the_end():
    """1.1 s after 0.53 s is 1.63 s, though floating point says a hair more, in which a note would find room."""
    engine = Scripted([shift(100), shift(10), codec.VELOCITY + 9, 60, shift(100)])
    played = Piece.from_notes([(0.0, 0.53, 50, 60)])
    performance = Performer(engine).continue_piece(played, seconds=1.1, seed=0)
    assert notes(performance.piece) == [(0.0, 0.53, 50, 60)]
    assert engine.read_tokens[-1] == shift(100), "what follows the end is not asked for"


def test_a_model_may_end_before_the_length_asked_for():
    script = [shift(100), codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END]
    performance = Performer(Scripted(script)).generate(seconds=600, seed=0)
    assert performance.ended
    assert performance.tokens == 6
    assert performance.piece.seconds == 1.5


class Impatient(Scripted):
    """Wants to end all the time, and what it is scripted to want where it may not."""

    def read(self, tokens: np.ndarray) -> np.ndarray:
        logits = super().read(tokens)
        logits[codec.END] = 2000
        return logits


def test_a_model_does_not_end_before_it_has_begun():
    script = [shift(7), codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60]
    events = itertools.islice(Performer(Impatient(script)).events(np.random.default_rng(0)), 20)
    assert [token for token, _ in events] == [*script, codec.END]
    prompt = codec.encode(Piece.from_notes([(0.0, 1.0, 60, 62)]))[:-1]
    after = itertools.islice(Performer(Impatient([])).events(np.random.default_rng(0), prompt=prompt), 20)
    assert [token for token, _ in after] == [codec.END]


@pytest.mark.parametrize(("playable", "seconds"), [(True, 1.07), (False, 0.57)])
def test_a_piece_is_as_long_as_the_shortest_that_the_model_learnt_from(playable, seconds):
    held = ((60, 57), (61, 49), (62, 1))  # let go after 0.57, 1.06 and 1.07 s
    engine = Impatient([codec.VELOCITY + 9, *(t for key, n in held for t in (key, shift(n), codec.NOTE_OFF + key))])
    engine.trained_on = {"shortest_s": 1.07}
    performer = Performer(engine, Sampling(playable=playable))
    events = list(itertools.islice(performer.events(np.random.default_rng(0)), 40))
    assert [token for token, _ in events][-1] == codec.END
    assert [reached_s for _, reached_s in events][-1] == seconds
    prompt = codec.encode(Piece.from_notes([(0.0, 2.0, 60, 62)]))[:-1]
    after = itertools.islice(Performer(engine).events(np.random.default_rng(0), prompt=prompt), 20)
    assert [token for token, _ in after] == [codec.END], "what was given counts too"


def test_a_model_that_may_not_end_plays_the_whole_length():
    engine = Scripted([shift(100), codec.END, codec.END], rest=np.eye(codec.N_EVENTS)[shift(100)] * 1000)
    performance = Performer(engine).generate(seconds=20, seed=0, may_end=False)
    assert not performance.ended
    assert codec.END not in engine.read_tokens
    assert engine.read_tokens.count(shift(100)) >= 17, "all but the events at END's places are whole seconds"


@pytest.mark.parametrize("seconds", [0, -1, -0.0, float("nan"), float("inf"), 86400.1, 1e12])
def test_an_absurd_length_is_refused_in_one_line(performer, seconds):
    with pytest.raises(RitornelloError, match=r"^a length of \S+ minutes; it must lie above 0 and up to 1440$"):
        performer.generate(seconds=seconds, seed=0)
    with pytest.raises(RitornelloError, match="a length of"):
        performer.continue_piece(Piece.from_notes([(0, 1, 60, 60)]), seconds=seconds, seed=0)


def test_progress_tells_seconds_of_music_up_to_the_length_asked_for(performer):
    told: list[float] = []
    performer.generate(seconds=4, seed=2, progress=told.append)
    assert told == sorted(told)
    assert told[0] >= 0
    assert told[-1] == 4
    told.clear()
    performer.continue_piece(Piece.from_notes([(0, 9, 60, 60)]), seconds=4, seed=2, progress=told.append)
    assert 0 <= told[0] <= told[-1] == 4


def test_likelihoods_that_are_no_numbers_end_the_performance_at_once():
    engine = Scripted([], rest=np.full(codec.N_EVENTS, np.nan))
    with pytest.raises(RitornelloError, match="damaged"):
        Performer(engine).generate(seconds=1, seed=0)


# ---- rests ----


def waiting_engine() -> Scripted:
    """Would rather wait, and longest of all for a second; every key is as likely as any other."""
    rest = np.zeros(codec.N_EVENTS)
    rest[codec.SHIFT : codec.VELOCITY] = np.linspace(6, 8, codec.VELOCITY - codec.SHIFT)
    return Scripted([], rest)


@pytest.mark.parametrize("temperature", [0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2])
@pytest.mark.parametrize(("top_p", "min_p"), [(1, 0), (0.99, 0), (0.3, 0), (1, 0.2)])
def test_every_sampling_gives_music_from_a_model_that_would_rather_wait(temperature, top_p, min_p):
    """It begins within 8 s, and then no 9 s pass without a key, nor 4.5 s in silence."""
    sampling = Sampling(temperature, top_p, min_p)
    piece = Performer(waiting_engine(), sampling).generate(seconds=90, seed=0, may_end=False).piece
    assert len(piece) >= 3
    assert piece.onset[0] <= 8
    assert np.diff([*piece.onset, 90]).max() <= 9 + 4.5
    silent_s = piece.onset[1:] - np.maximum.accumulate(piece.offset)[:-1]
    assert silent_s.max(initial=0) <= 4.5 + STEP_S


CUTS = [(1, 0), (0.97, 0), (0.6, 0), (0.3, 0), (0.01, 0), (1, 0.05), (1, 0.2), (1, 1), (0.01, 1)]


@pytest.mark.parametrize("temperature", [0, 0.25, 0.5, 1, 1.5, 2])
@pytest.mark.parametrize(("top_p", "min_p"), CUTS)
def test_every_sampling_strikes_as_often_where_the_longest_wait_is_likelier_than_any_key(temperature, top_p, min_p):
    """A third of the events are strikes, of 128 keys; one in five is a wait of a second, and no key is let go twice."""
    weights = np.full(codec.N_EVENTS, 1e-3)
    weights[: codec.NOTE_OFF], weights[codec.NOTE_OFF : codec.SHIFT] = 3 / 128, 3 / 128
    weights[codec.SHIFT : codec.VELOCITY], weights[codec.VELOCITY - 1] = 1 / 99, 2
    performer = Performer(Scripted([], np.log(weights)), Sampling(temperature, top_p, min_p))
    seconds = LONGEST_S  # later on what has to be let go cuts waits short
    piece = performer.generate(seconds=seconds, seed=0, may_end=False).piece
    assert 0.7 < len(piece) / seconds < 1.5


def test_the_rest_that_a_prompt_ends_with_counts():
    """Of 4.5 s of silence 3 are over: the next key is struck after 1.5 more."""
    prompt = np.array([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, *[shift(100)] * 3])
    events = Performer(waiting_engine(), Greedy()).events(np.random.default_rng(0), prompt=prompt)
    struck_s = next(now_s for token, now_s in events if token < codec.NOTE_OFF)
    assert struck_s == 0.5 + 4.5


def test_a_key_that_is_held_is_not_held_alone_for_longer_than_people_do():
    """Of 9 s 5 are over."""
    prompt = np.array([codec.VELOCITY + 9, 60, *[shift(100)] * 5])
    events = Performer(waiting_engine(), Greedy()).events(np.random.default_rng(0), prompt=prompt)
    assert next(now_s for token, now_s in events if token < codec.SHIFT) == 9


@pytest.mark.parametrize("playable", [True, False])
def test_a_key_is_held_no_longer_than_people_do(playable):
    """The model lets none go by itself; those of the prompt were struck at 0 and, two of them, at 1.5 s."""
    engine = waiting_engine()
    engine.rest[codec.NOTE_OFF : codec.SHIFT] = -1000
    prompt = np.array([codec.VELOCITY + 9, 60, shift(100), shift(50), 55, 64])
    events = Performer(engine, Sampling(playable=playable)).events(np.random.default_rng(0), prompt=prompt)
    until_60 = list(itertools.takewhile(lambda event: event[1] < 60, events))
    assert_legal([*prompt, *(token for token, _ in until_60)])
    let_go = [(token - codec.NOTE_OFF, now_s) for token, now_s in until_60 if codec.NOTE_OFF <= token < codec.SHIFT]
    assert let_go[:3] == ([(60, 38), (55, 39.5), (64, 39.5)] if playable else [])
    assert len(let_go) > 3 or not playable


def test_keys_that_others_held_for_longer_are_let_go_as_soon_as_the_grammar_allows():
    """Within a step none is let go after a strike, and none before the time from which the model may play."""
    prompt = np.array([codec.VELOCITY + 9, 60, 62, *[shift(100)] * 41, 64])
    for until_s, waits in ((0, [shift(1)]), (43.2, [shift(100), shift(100), shift(20)])):
        take = Performer(waiting_engine()).begin()
        take.hear(prompt, until_s=until_s)
        played = [take.play(Greedy(), np.random.default_rng(0)).token for _ in range(5)]
        assert played[: len(waits) + 2] == [*waits, codec.NOTE_OFF + 60, codec.NOTE_OFF + 62]


def test_a_stream_strikes_a_key_though_its_model_would_rather_wait():
    first = next(Performer(waiting_engine(), Greedy()).stream(seed=0))
    assert first.time_s == 8


# ---- streams ----


def test_a_stream_gives_the_events_and_notes_of_the_piece(performer):
    seconds = 15
    performance = performer.generate(seconds=seconds, seed=8)
    decoder, events, heard = codec.StreamDecoder(), [], []
    for token, now_s in performer.events(np.random.default_rng(8)):
        events.append(token)
        heard += decoder.feed(token)
        assert now_s == decoder.seconds
        if now_s >= seconds or token == codec.END:
            break
    heard += decoder.finish()
    expected = sorted((n.onset, min(n.offset, seconds), n.pitch, n.velocity) for n in heard if n.onset < seconds)
    assert expected == sorted(notes(performance.piece))
    assert len(events) == performance.tokens


def test_a_stream_after_a_prompt_gives_what_a_continuation_plays(performer):
    """A prompt whose keys are all silent at the border: everything new is the stream's."""
    played = Piece.from_notes([(0.0, 1.0, 60, 62), (0.5, 2.0, 64, 62)])
    continued = performer.continue_piece(played, seconds=10, seed=5)
    decoder, heard = codec.StreamDecoder(), []
    prompt = codec.encode(played)[:-1]
    for token in prompt:
        decoder.feed(int(token))
    for token, now_s in performer.events(np.random.default_rng(5), prompt=prompt):
        heard += decoder.feed(token)
        assert now_s == decoder.seconds
        if now_s >= 12 or token == codec.END:
            break
    heard += decoder.finish()
    new = sorted((n.onset, min(n.offset, 12.0), n.pitch, n.velocity) for n in heard if n.onset < 12)
    assert sorted(notes(continued.piece)) == sorted(notes(played) + new)


def test_a_stream_ends_with_the_piece():
    script = [shift(7), codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END]
    events = list(Performer(Scripted(script)).events(np.random.default_rng(0)))
    assert events == list(zip(script, (0.07, 0.07, 0.07, 0.57, 0.57, 0.57)))


# ---- loading ----


def test_a_loaded_model_plays_as_the_model_that_was_saved(performer, tmp_path):
    loaded = load(str(save_model(tiny_model(), tmp_path / "model")), engine="torch")
    assert same(loaded.generate(seconds=5, seed=1).piece, performer.generate(seconds=5, seed=1).piece)


def test_torch_is_loaded_when_a_torch_model_is_and_not_before(tmp_path):
    folder = save_model(tiny_model(), tmp_path / "model")
    program = (
        "import sys\n"
        "import ritornello\n"
        "from ritornello.performing import load\n"
        "from ritornello.errors import RitornelloError\n"
        "try:\n    load('base', engine='tuba')\n"
        "except RitornelloError as error:\n    print(error)\n"
        "print('torch' in sys.modules)\n"
        f"ritornello.load({str(folder)!r}).generate(seconds=5, seed=1)\n"
        "print('torch' in sys.modules)\n"
        f"ritornello.load({str(folder)!r}, engine='torch')\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[1:] == ["False", "False", "True"], done.stdout
    assert done.stdout.startswith("unknown engine 'tuba'")


# ---- one piece after another, and live ----


def test_where_the_model_ends_a_piece_another_follows_until_the_time_is_over():
    performance = Performer(an_ending_engine()).generate(seconds=8, seed=0, again=True)
    np.testing.assert_allclose(performance.piece.onset, [0.0, 2.5, 5.0, 7.5])
    np.testing.assert_allclose(performance.piece.offset, [0.5, 3.0, 5.5, 8.0])
    assert performance.pieces == 4
    assert performance.tokens == 3 * 5 + 3  # the fourth stops at the shift that reaches the end of the time


def test_several_pieces_are_ended_by_the_model_if_it_ended_the_last() -> None:
    """Of 8 s the fourth piece is cut; of 9 s it has its end, and there is no room for a fifth."""
    cut, ended = (Performer(an_ending_engine()).generate(seconds=s, seed=0, again=True) for s in (8, 9))
    assert (cut.pieces, cut.ended) == (4, False)
    assert (ended.pieces, ended.ended) == (4, True)


def test_without_being_asked_for_more_a_piece_ends_where_the_model_ends_it():
    performance = Performer(an_ending_engine()).generate(seconds=8, seed=0)
    assert (performance.pieces, performance.ended, performance.piece.seconds) == (1, True, 0.5)


def test_progress_runs_on_through_several_pieces():
    seen: list[float] = []
    Performer(an_ending_engine()).generate(seconds=8, seed=0, again=True, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(8.0)


def test_a_stream_gives_keys_as_they_are_struck_and_released_and_goes_on_after_an_end():
    events = list(itertools.islice(Performer(an_ending_engine()).stream(seed=0), 6))
    velocity = 9 * 4 + 2
    assert events == [
        (pytest.approx(start + later), 60, 0 if later else velocity) for start in (0.0, 2.5, 5.0) for later in (0, 0.5)
    ]


def test_a_stream_after_a_prompt_counts_from_its_end_in_the_prompt_s_velocity():
    prompt = np.array([codec.VELOCITY + 20, 64, shift(30)])
    engine = Scripted([codec.NOTE_OFF + 64, shift(100), 65, shift(20), codec.NOTE_OFF + 65, codec.END])
    events = list(itertools.islice(Performer(engine).stream(seed=0, prompt=prompt), 3))
    assert events == [(0.0, 64, 0), (1.0, 65, 20 * 4 + 2), (pytest.approx(1.2), 65, 0)]


def test_a_stream_gives_the_keys_of_one_moment_once_all_of_them_are_known():
    """The last event of a moment is the rest behind it, or the end: five events, two more, three more."""
    read = []

    class Counting(Scripted):
        def read(self, tokens: np.ndarray) -> np.ndarray:
            read.append(len(tokens))
            return super().read(tokens)

    chord = [codec.VELOCITY + 9, 60, 64, 67, shift(50)]
    engine = Counting([*chord, codec.NOTE_OFF + 60, shift(5), codec.NOTE_OFF + 64, codec.NOTE_OFF + 67, codec.END])
    stream = Performer(engine).stream(seed=0)
    events, after = zip(*((next(stream), len(read)) for _ in range(6)))
    assert [(pitch, velocity) for _, pitch, velocity in events] == [
        *((p, 38) for p in (60, 64, 67)),
        (60, 0),
        (64, 0),
        (67, 0),
    ]
    assert after == (5, 5, 5, 7, 10, 10)


def test_a_stream_waits_when_it_is_further_ahead_of_the_clock_than_allowed():
    """The clock stands still but for the waiting, so the music is always as far ahead as it may be."""
    now, waited = [100.0], []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    stream = paced(Performer(an_ending_engine()).stream(seed=0), 1.0, clock=lambda: now[0], sleep=sleep)
    events = list(itertools.islice(stream, 6))
    assert waited == [pytest.approx(w) for w in (1.5, 0.5, 2.0, 0.5)]
    assert now[0] == pytest.approx(100.0 + events[-1].time_s - 1.0)


def test_a_stream_of_hours_holds_no_more_than_one_of_minutes():
    import tracemalloc

    stream = Performer(an_ending_engine()).stream(seed=0)
    tracemalloc.start()
    try:
        for _ in range(500):
            next(stream)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5000):
            last = next(stream)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
    assert last.time_s > 3600
