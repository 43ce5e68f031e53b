"""The repeat test: a passage again as legal events, and the gain of models of which it is known beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import made_up_tokens, write_corpus

from ritornello import codec
from ritornello.codec.vocabulary import SHIFT, VELOCITY
from ritornello.recall import LEAD_TOKENS, PASSAGE_TOKENS, Recall, played_again, repeat_test

HEARD = LEAD_TOKENS + PASSAGE_TOKENS
REMEMBERED = 8  # tokens by which a listener knows a place again


class Listener(torch.nn.Module):
    """Knows nothing, or foresees for certain what followed the last time that the latest tokens were read.

    Its state is every token so far. ``surprise`` nats are what it gives to what it does not foresee.
    """

    def __init__(self, *, remembers: bool, reach: int = 1_000_000) -> None:
        super().__init__()
        self.config = SimpleNamespace(motif_notes=0)
        self.device = torch.device("cpu")
        self.remembers, self.reach = remembers, reach

    def initial_state(self, batch):
        return [[] for _ in range(batch)]

    def forward(self, tokens, state):
        logits = torch.zeros(*tokens.shape, codec.N_EVENTS, dtype=torch.float64)
        after = [list(lane) for lane in state]
        for lane, row in enumerate(tokens.tolist()):
            for i, token in enumerate(row):
                after[lane].append(token)
                followed = self.followed(after[lane]) if self.remembers else None
                if followed is not None:
                    logits[lane, i, followed] = 20.0
        return logits, after

    def followed(self, tokens):
        end, latest = len(tokens), tokens[-REMEMBERED:]
        for stop in range(end - 1, max(REMEMBERED, end - self.reach), -1):
            if tokens[stop - REMEMBERED : stop] == latest:
                return tokens[stop]
        return None


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Three titles of some 1,600 tokens and one that is too short."""
    pieces = made_up_tokens(5, 320, 330, 340, 100)
    return write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", {"validation": pieces})


def test_who_remembers_gains_all_that_the_passage_costs(music):
    """The logarithm of 389 nats a token the first time, nothing the second: at every gap."""
    found = repeat_test(Listener(remembers=True), music, "validation", legal=False, gaps_tokens=(0, 1, 64, 300))
    assert [recall.gap_tokens for recall in found] == [0, 1, 64, 300]
    for recall in found:
        assert len(recall.gains) == 3
        assert recall.gain == pytest.approx(math.log(codec.N_EVENTS), rel=0.1)


def test_who_remembers_nothing_gains_nothing(music):
    for legal in (False, True):
        found = repeat_test(Listener(remembers=False), music, "validation", legal=legal, gaps_tokens=(0, 200))
        free = [abs(recall.gain) for recall in found]
        assert max(free) < (1e-9 if not legal else 1.0)  # the grammar leaves more choices where fewer keys sound


def test_a_short_memory_gains_at_short_gaps_alone(music):
    found = repeat_test(Listener(remembers=True, reach=400), music, "validation", legal=False, gaps_tokens=(64, 300))
    near, far = found
    assert near.gain > 5
    assert far.gain == pytest.approx(0, abs=1e-9)


def test_a_gap_is_measured_in_the_pieces_that_hold_it(music):
    lengths = sorted(record.tokens for record in music.pieces("validation"))
    gap = (lengths[-2] + lengths[-3]) // 2 - HEARD
    found = repeat_test(Listener(remembers=False), music, "validation", legal=False, gaps_tokens=(0, gap, 100_000))
    assert [len(recall.gains) for recall in found] == [3, 2]


def test_pieces_that_are_too_short_are_refused(tmp_path):
    short = write_corpus(tmp_path / "corpus", {"validation": made_up_tokens(6, 60)})
    with one_line(short.path, "validation", "760"):
        repeat_test(Listener(remembers=False), short, "validation", legal=False)


def test_the_interval_holds_the_mean_and_is_that_of_drawn_pieces():
    """Of a hundred pieces of which half gain 1 and half nothing the mean is 0.5 +- 1.96 x 0.05."""
    figures = Recall(200, (0.0, 1.0) * 50).figures()
    assert figures["gain"] == 0.5
    assert figures["low"] == pytest.approx(0.402, abs=0.02)
    assert figures["high"] == pytest.approx(0.598, abs=0.02)


class Partial(Listener):
    """Every event has its own likelihood, whatever came before: the same event costs the same both times."""

    def __init__(self) -> None:
        super().__init__(remembers=False)
        self.weights = torch.randn(codec.N_EVENTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.heard: list[list[int]] = []

    def forward(self, tokens, state):
        logits, after = super().forward(tokens, state)
        self.heard = after if len(after[0]) > len((self.heard or [[]])[0]) else self.heard
        return logits + self.weights, after


def test_the_same_events_are_compared(music):
    """By a model to which an event's place is nothing every gain is 0, if each is compared with itself."""
    for recall in repeat_test(Partial(), music, "validation", legal=False, gaps_tokens=(0, 1, 2, 3, 300)):
        assert recall.gains == pytest.approx([0] * 3, abs=1e-9)


def test_the_passage_is_played_again_as_it_was(music):
    """Keys, velocities and the time between its strikes, behind whatever the gap ended with."""
    for gap in (0, 1, 2, 3, 150):
        model = Partial()
        repeat_test(model, music, "validation", legal=False, gaps_tokens=(gap,), most_pieces=1)
        (read,) = model.heard
        longest = max(music.pieces("validation"), key=lambda record: record.tokens)
        text = music.tokens(longest).astype(np.int64)
        first, again = strikes(text[:HEARD]), strikes(np.array(read[1:]))
        count = int(np.sum(text[LEAD_TOKENS:HEARD] < codec.NOTE_OFF)) - 2  # the last token is predicted, not read
        first = first[-count - 2 : -2]
        found = [again[i : i + count] for i in range(len(first), len(again) - count + 1)]
        assert any(np.array_equal(first - first[0] * [0, 0, 1], f - f[0] * [0, 0, 1]) for f in found[-4:]), gap


def strikes(tokens):
    """(N, 3) key, velocity bin and step of every strike."""
    at, rows, velocity = codec.steps_of(tokens), [], -1
    for token, step in zip(tokens.tolist(), at.tolist()):
        velocity = token - VELOCITY if VELOCITY <= token < codec.END else velocity
        if token < codec.NOTE_OFF:
            rows.append((token, velocity, step))
    return np.array(rows)


# ---- a passage again ----


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), start=st.integers(0, 300), length=st.integers(0, 200), current=st.integers(-1, 31))
def test_a_passage_again_is_legal_and_keeps_what_it_can(seed, start, length, current):
    """Behind any velocity; all strikes and all shifts that meet no other are kept, in their order."""
    text = made_up_tokens(seed, 120)[0].astype(np.int64)[:-1]
    passage = text[start : start + length]
    velocities = text[:start][text[:start] >= VELOCITY]
    velocity = int(velocities[-1]) - VELOCITY if len(velocities) else -1
    events, places = played_again(passage, velocity=velocity, current=current)
    before = [VELOCITY + current, 60, SHIFT, codec.NOTE_OFF + 60, VELOCITY - 1] if current >= 0 else []
    whole = np.array([*before, *events], np.int64)
    assert codec.legal_events(codec.contexts(whole))[np.arange(len(whole)), whole].all()
    kept = places >= 0
    assert np.array_equal(events[places[kept]], passage[kept])
    assert np.all(np.diff(places[kept]) > 0)
    assert kept[passage < codec.NOTE_OFF].all()


def test_what_is_left_out_and_joined_of_a_passage():
    """By hand: a release without strike, the shifts around it, a velocity that is there already, 1.3 s in two."""
    c, d = 60, 62
    passage = [SHIFT + 4, 128 + d, SHIFT + 1, VELOCITY + 9, c, SHIFT + 59, 128 + d, SHIFT + 69, 128 + c, VELOCITY + 9]
    events, places = played_again(passage, velocity=3, current=9)
    assert events.tolist() == [c, VELOCITY - 1, SHIFT + 29, 128 + c]
    assert places.tolist() == [-1, -1, -1, -1, 0, -1, -1, -1, 3, -1]
    events, _ = played_again([c, SHIFT + 4, 128 + c], velocity=3, current=9)
    assert events.tolist() == [VELOCITY + 3, c, SHIFT + 4, 128 + c]
