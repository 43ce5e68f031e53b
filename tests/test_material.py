"""Returning material is what its definition says, on any stream of tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello import codec
from ritornello.studies.measure import NEVER, ages

STREAMS = st.lists(st.sampled_from([0, 1, 127, codec.NOTE_OFF, 300, codec.END]), max_size=60)


def returning(tokens: list[int], notes: int, apart_tokens: int) -> list[bool]:
    """As a study reads it: the first time was long enough ago."""
    return (ages(np.array(tokens, np.uint16), notes=notes)[1] > apart_tokens).tolist()


def by_definition(tokens: list[int], notes: int, apart_tokens: int) -> list[bool]:
    """Every pair of passages compared, strike by strike."""
    struck = [i for i, token in enumerate(tokens) if token <= 127]
    passages = [struck[i : i + notes] for i in range(len(struck) - notes + 1)]
    inside = [False] * len(tokens)
    for late in passages:
        for early in passages:
            same = [tokens[i] for i in early] == [tokens[i] for i in late]
            if same and late[0] - early[-1] > apart_tokens:
                inside[late[0] : late[-1] + 1] = [True] * (late[-1] + 1 - late[0])
    return inside


@settings(deadline=None, max_examples=300)
@given(STREAMS, st.integers(1, 9), st.integers(0, 30))
def test_returning_material_is_found_as_by_comparing_all_passages(
    tokens: list[int], notes: int, apart_tokens: int
) -> None:
    found = returning(tokens, notes=notes, apart_tokens=apart_tokens)
    assert found == by_definition(tokens, notes, apart_tokens)


def ages_by_definition(tokens: list[int], notes: int) -> list[int]:
    """Every pair of passages compared; of the earlier times that do not overlap the latest counts."""
    struck = [i for i, token in enumerate(tokens) if token <= 127]
    passages = [struck[i : i + notes] for i in range(len(struck) - notes + 1)]
    found = [NEVER] * len(tokens)
    for late in passages:
        earlier = [
            early[-1]
            for early in passages
            if early[-1] < late[0] and [tokens[i] for i in early] == [tokens[i] for i in late]
        ]
        for i in range(late[0], late[-1] + 1) if earlier else ():
            age = late[0] - max(earlier)
            found[i] = age if found[i] == NEVER else min(found[i], age)
    return found


@settings(deadline=None, max_examples=300)
@given(STREAMS, st.integers(1, 9))
def test_ages_are_found_as_by_comparing_all_passages(tokens: list[int], notes: int) -> None:
    assert ages(np.array(tokens, np.uint16), notes=notes)[0].tolist() == ages_by_definition(tokens, notes)


def test_a_passage_returns_whatever_its_timing_and_only_after_long_enough() -> None:
    shift, release = 300, codec.NOTE_OFF + 60
    theme, again = [60, shift, 64, 67], [60, 64, release, shift, 67]
    tokens = [*theme, *[shift] * 6, *again, shift]
    # The theme ends at token 3 and begins again at token 10: 7 tokens apart.
    expected = [False] * 10 + [True] * 5 + [False]
    assert returning(tokens, notes=3, apart_tokens=6) == expected
    assert not any(returning(tokens, notes=3, apart_tokens=7))


def test_nine_notes_of_the_highest_pitch_are_told_from_all_others() -> None:
    top, other = [127] * 9, [127] * 8 + [126]
    assert returning(top + top, notes=9, apart_tokens=0) == [False] * 9 + [True] * 9
    assert not any(returning(other + [0] * 9 + [126] + [127] * 8, notes=9, apart_tokens=0))
