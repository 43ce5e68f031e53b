"""Takes: a performance in the making can be forked, saved and gone on with, by every engine, to the last bit."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from conftest import made_up_piece
from definition import EXTRAS, tiny_model
from scripted import Greedy, Scripted, shift
from tiny import save_model

from ritornello import codec
from ritornello.codec import MotifMemory
from ritornello.engines import load_engine
from ritornello.errors import RitornelloError
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.take import Take

ENGINES = ("onnx", "onnx-fp32", "torch")


@pytest.fixture(scope="module")
def performers(tmp_path_factory):
    folder = save_model(tiny_model("40, 5", **EXTRAS), tmp_path_factory.mktemp("saved") / "model")
    return {name: Performer(load_engine(str(folder), name, threads=1)) for name in ENGINES}


@pytest.fixture(params=ENGINES)
def performer(performers, request) -> Performer:
    return performers[request.param]


@pytest.fixture(params=ENGINES)
def recalling(tmp_path, request) -> Performer:
    folder = save_model(tiny_model("40, 5", **{**EXTRAS, "motif_notes": 64, "recalls": True}), tmp_path / "model")
    return Performer(load_engine(str(folder), request.param, threads=1))


def play(take: Take, events: int, seed: int, sampling: Sampling | None = None) -> list:
    rng = np.random.default_rng(seed)
    return [take.play(sampling or Sampling(), rng, may_end=False) for _ in range(events)]


def prompt() -> np.ndarray:
    tokens = codec.encode(made_up_piece(np.random.default_rng(1), notes=30, seconds=6))
    return tokens[codec.steps_of(tokens) < 500]


def stored(saved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As it comes back from a file."""
    file = io.BytesIO()
    np.savez(file, **saved)
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))


# A moment at the start, in the midst of a segment of 16, at its border, and with all memories gone round.
@pytest.mark.parametrize("events", [0, 5, 15, 16, 130])
def test_forks_and_saved_takes_go_on_as_the_take_itself_would(performer, events):
    take = performer.begin()
    play(take, events, seed=1)
    fork, saved = take.fork(), take.save()
    expected = play(take, 60, seed=2)
    assert play(fork, 60, seed=2) == expected
    assert play(performer.resume(stored(saved)), 60, seed=2) == expected
    assert play(performer.resume(saved), 60, seed=2) == expected, "a value can be used again"
    assert play(performer.begin(), 60, seed=2) != expected or not events, "what came before matters"


def test_forks_do_not_disturb_each_other_however_their_events_take_turns(performer):
    take = performer.begin()
    take.hear(prompt())
    takes = [take, take.fork(), take.fork()]
    alone = [play(one.fork(), 50, seed) for seed, one in enumerate(takes)]
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    together: list[list] = [[], [], []]
    for turn in range(50):
        for i in ((0, 1, 2), (2, 0, 1))[turn % 2]:
            together[i].append(takes[i].play(Sampling(), rngs[i], may_end=False))
    assert together == alone
    assert len({tuple(event.token for event in events) for events in alone}) == 3


def test_what_is_heard_after_a_fork_is_heard_by_one_of_them_alone(performer):
    take = performer.begin()
    play(take, 20, seed=1)
    fork, expected = take.fork(), play(take.fork(), 40, seed=3)
    take.hear([shift(100), shift(100)])
    assert play(fork, 40, seed=3) == expected
    assert play(take, 40, seed=3) != expected


def test_a_take_saved_before_it_heard_anything_is_a_beginning(performer):
    assert play(performer.resume(performer.begin().save()), 40, 1) == play(performer.begin(), 40, 1)


def test_sampling_may_change_from_event_to_event(performer):
    """Where nothing is drawn the generator does not matter; before and after it does."""
    take = performer.begin()
    play(take, 20, seed=1)
    forks = [take.fork() for _ in range(2)]
    greedy = [play(fork, 10, seed, Greedy()) for seed, fork in enumerate(forks)]
    assert greedy[0] == greedy[1]
    later = [play(fork, 20, seed) for seed, fork in enumerate(forks)]
    assert later[0] != later[1]


def test_what_was_saved_by_another_engine_or_with_another_model_is_refused(performers, tmp_path):
    saved = {name: one.begin().save() for name, one in performers.items()}
    other = Performer(load_engine(str(save_model(tiny_model("8", **EXTRAS), tmp_path / "model")), "onnx"))
    for taker, maker in ((performers["torch"], "onnx"), (performers["onnx"], "torch"), (other, "onnx")):
        with pytest.raises(RitornelloError, match="of another engine or model"):
            taker.resume(saved[maker])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_session_says_where_it_stands_and_nobody_can_move_it(performers, engine):
    session = performers[engine].engine.begin(1_000)
    session.read(np.array([codec.START, 60, 61]))
    assert session.position == session.fork().position == 1_003
    with pytest.raises(AttributeError):
        session.position = 0


# ---- what an event tells, and what was heard ----


def test_an_event_tells_the_key_and_the_note_that_it_ends():
    take = Performer(Scripted([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60])).begin()
    velocity, strike, wait, release = play(take, 4, seed=0)
    assert (velocity.key, wait.key) == (None, None)
    assert strike.key == (0.0, 60, 38)
    assert release.key == (0.5, 60, 0)
    assert [event.finished for event in (velocity, strike, wait)] == [[], [], []]
    assert release.finished == [(0.0, 0.5, 60, 38)]
    assert take.seconds == 0.5


def test_a_prompt_s_notes_are_given_as_they_end_and_the_rest_when_it_is_finished():
    take = Performer(Scripted([])).begin()
    assert take.hear([codec.VELOCITY + 9, 60, 64, shift(50), codec.NOTE_OFF + 60]) == [(0.0, 0.5, 60, 38)]
    assert np.flatnonzero(take.sounding).tolist() == [64]
    assert take.hear([shift(10)]) == []
    assert take.finish() == [(0.0, 0.6, 64, 38)]


def test_nothing_is_played_before_the_silence_that_was_heard_is_over():
    """Whatever the model wants at 0.5 s, its first key is at 2.8 s or later, after whole seconds."""
    for seed, rest in itertools.product(range(5), (np.zeros(codec.N_EVENTS), np.eye(codec.N_EVENTS)[61] * 99)):
        take = Performer(Scripted([], rest)).begin()
        take.hear([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60], until_s=2.8)
        rng, tokens = np.random.default_rng(seed), []
        while (token := take.play(Sampling(), rng).token) >= codec.SHIFT:
            tokens.append(token)
        waited = [token - codec.SHIFT + 1 for token in tokens if token < codec.VELOCITY]
        assert tokens[: len(waited)][:2] == [shift(100), shift(100)]
        assert sum(waited) >= 230
        assert waited[2] >= 30


def test_a_piece_that_has_ended_is_over():
    take = Performer(Scripted([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END])).begin()
    for _ in range(5):
        take.play(Sampling(), np.random.default_rng(0))
    assert take.ended
    with pytest.raises(ValueError, match="has ended"):
        take.play(Sampling(), np.random.default_rng(0))


# ---- passages that are called back ----


class Breathing:
    """An engine that strikes a key every 0.1 s, ten times, and then rests for a second, for ever; it remembers."""

    trained_on, labels = {}, ()

    def __init__(self, *, may_call: bool = True) -> None:
        self.motifs = MotifMemory(4096, may_call=may_call)
        self.place = -1

    def begin(self) -> Breathing:
        return self

    def read(self, tokens: np.ndarray) -> np.ndarray:
        self.motifs.read(tokens)
        logits = np.zeros(codec.N_EVENTS, np.float32)
        phrase, step = divmod(self.place, 32)
        key = int(np.random.default_rng(phrase + 1).permutation(88)[step // 3]) + 21
        event = shift(100) if step == 30 else (key, shift(10), codec.NOTE_OFF + key)[step % 3]
        logits[event if self.place >= 0 else codec.VELOCITY + 15] = 1000
        self.place += 1 + (step == 30)
        return logits


def calls_of(sampling: Sampling, events: int, seed: int = 0, *, may_call: bool = True) -> list[tuple[float, float]]:
    """When passages were called back, and from when they are."""
    take, rng, found = Performer(Breathing(may_call=may_call)).begin(), np.random.default_rng(seed), []
    motifs = take._session.motifs
    for _ in range(events):
        before = motifs.called
        take.play(sampling, rng)
        if motifs.called > before:
            first, onsets = motifs.onsets()
            found.append((take.seconds, onsets[motifs._next - first] / 100))
    return found


def test_phrases_begin_again_as_often_as_is_asked_for():
    """A phrase of ten strikes lasts two seconds: 400 are 800 s, of which the first 30 s have nothing to go back to.

    A call is out after five strikes that are not the passage's, so that each phrase may have one. With 3 a minute
    that is a chance of 0.095 at each of 385 ends: 37, with a deviation of 5.8.
    """
    calls = calls_of(Sampling(returns=3), 400 * 31)
    assert 37 - 4 * 5.8 < len(calls) < 37 + 4 * 5.8
    for now_s, from_s in calls:
        assert now_s - from_s >= 30
        assert abs(from_s / 2 - round(from_s / 2)) < 1e-9, "where a phrase begins"
        assert abs(now_s / 2 - round(now_s / 2)) < 1e-9, "and called where one has ended"
    assert len({from_s for _, from_s in calls}) > 10
    assert calls != calls_of(Sampling(returns=3), 400 * 31, seed=1)


def test_nothing_is_called_back_where_nobody_asks_or_the_model_does_not_know_how():
    assert not calls_of(Sampling(returns=0), 100 * 31)
    assert not calls_of(Sampling(returns=60), 100 * 31, may_call=False)
    assert not calls_of(Sampling(returns=60), 14 * 31), "nothing is old enough"
    assert calls_of(Sampling(returns=60), 20 * 31)


class Flat(Breathing):
    """An engine to which all events are equal."""

    def read(self, tokens: np.ndarray) -> np.ndarray:
        self.motifs.read(tokens)
        return np.zeros(codec.N_EVENTS, np.float32)


def test_what_is_called_back_is_insisted_on():
    """Of 127 keys that are alike one is e^5 = 148.4 times as likely: 54.1 % of the strikes, not 0.8 %."""
    told, strikes = 0, 0
    for seed in range(300):
        take = Performer(Flat()).begin()
        take.hear(
            [codec.VELOCITY + 15, 60, shift(10), 71, shift(9), codec.NOTE_OFF + 71, shift(1), codec.VELOCITY + 14]
        )
        take.recall(0.1)
        event = take.play(Sampling(top_p=1), np.random.default_rng(seed))
        strikes += event.token < codec.NOTE_OFF
        told += event.token == 71
    assert strikes == 300
    assert 0.541 * 300 - 4 * 8.6 < told < 0.541 * 300 + 4 * 8.6


def test_a_passage_that_returns_ends_before_it_would_return_to_itself(monkeypatch: pytest.MonkeyPatch):
    """Of the phrases of the last 12 s, 60 strikes, none is called for more strikes than were played from it on."""
    monkeypatch.setattr("ritornello.take.OLD_S", 6.0)  # so that many of them are called
    take, rng, lengths = Performer(Breathing(may_call=True)).begin(), np.random.default_rng(0), []
    motifs = take._session.motifs
    for _ in range(400 * 31):
        before = motifs.called
        take.play(Sampling(returns=60), rng)
        if motifs.called > before:
            first, onsets = motifs.onsets()
            lengths.append((motifs._end - motifs._next, first + len(onsets) - motifs._next))
    drawn = [strikes for strikes, most in lengths if most > 400]
    assert min(drawn) >= 24
    assert np.median(drawn) == pytest.approx(24 + 40 * np.log(2), abs=4 * 40 / len(drawn) ** 0.5)
    assert all(strikes <= most for strikes, most in lengths)
    assert any(strikes == most for strikes, most in lengths)


@pytest.mark.parametrize("playable", [True, False])
def test_keys_are_struck_no_faster_than_hands_do(playable):
    """Of an engine to which all events are equal, and then of one that would only strike and wait 10 ms.

    Where no other strike may follow a velocity, one is allowed all the same: hence a few.
    """
    hasty = np.full(codec.N_EVENTS, -1000, np.float32)
    hasty[:128] = hasty[codec.SHIFT] = hasty[codec.VELOCITY + 9] = 0
    soon, dense, strikes = 0, 0, 0
    for weights in (np.zeros(codec.N_EVENTS, np.float32), hasty):
        engine = Flat()
        engine.read = lambda tokens, weights=weights: weights
        take, rng = Performer(engine).begin(), np.random.default_rng(1)
        struck, times = np.full(128, -9.0), []
        for _ in range(3000):
            event = take.play(Sampling(top_p=1, playable=playable), rng, may_end=False)
            if event.token < codec.NOTE_OFF:
                now_s = take.seconds
                soon += now_s - struck[event.token] < 0.0599
                dense += sum(now_s - time_s < 0.9999 for time_s in times[-52:]) >= 52
                struck[event.token] = now_s
                times.append(now_s)
        strikes += len(times)
    if playable:
        assert dense == 0
        assert soon < 0.005 * strikes
    else:
        assert soon > 0.005 * strikes
        assert dense > 0.5 * strikes


def test_a_saved_take_knows_what_was_struck(recalling):
    take = recalling.begin()
    take.hear([codec.VELOCITY + 9, *range(60, 112), shift(2)])
    again = recalling.resume(stored(take.save()))
    for each in (take, again, take.fork()):
        legal = each._legal(True, True)
        assert not legal[: codec.NOTE_OFF].any()
        assert legal[codec.NOTE_OFF : codec.SHIFT].any()
        assert each._legal(True, False)[: codec.NOTE_OFF].any()
    take.hear([codec.NOTE_OFF + 60, shift(100), codec.NOTE_OFF + 61])
    assert take._legal(True, True)[60]


def test_where_only_a_hasty_strike_may_follow_it_may(recalling):
    """The highest key was struck 20 ms before and let go; the second highest is struck, and a velocity is told."""
    take = recalling.begin()
    take.hear([codec.VELOCITY + 9, 127, shift(2), codec.NOTE_OFF + 127, 126, codec.VELOCITY + 10])
    assert np.flatnonzero(take._legal(True, True)).tolist() == [127]


def test_a_passage_can_be_called_back_by_its_time(recalling):
    take = recalling.begin()
    take.hear(prompt())
    fork, step = take.fork(), int(100 * take.seconds)
    onsets = take._session.motifs.onsets()[1]
    fork.recall(onsets[12] / 100)
    assert fork._session.motifs._next == np.searchsorted(onsets, onsets[12])
    assert fork._session.motifs.called == codec.CALL_STRIKES
    assert take._session.motifs.called == 0
    assert play(recalling.resume(stored(fork.save())), 40, seed=2) == play(fork, 40, seed=2)
    latest = take.fork()
    latest.recall(onsets[-3] / 100)
    assert latest._session.motifs._end == len(onsets), "it does not run into itself"
    with pytest.raises(RitornelloError, match=f"nothing was played from {step + 1} s on"):
        take.recall(step + 1)


def test_a_model_that_knows_no_calls_says_so(performer):
    take = performer.begin()
    take.hear(prompt())
    with pytest.raises(RitornelloError, match="cannot be called back"):
        take.recall(0)
