"""What every model offers to training, evaluation, sampling and export.

A model reads tokens of a batch of lanes and a state, and gives logits and the next state. A state is a value: using it
changes nothing, so it can be used again. What every model promises is proved by ``tests/law.py``.
Axes: B lanes, T new tokens, V = codec.N_EVENTS events.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from torch import Tensor

S = TypeVar("S")


class RecurrentModel(Protocol[S]):
    """A model of token streams with an explicit state."""

    @property
    def config(self) -> Any:
        """The frozen dataclass that the model was built from."""

    @property
    def segment_tokens(self) -> int:
        """S: segments start at multiples of S, counted from the piece's start."""

    def initial_state(self, batch: int) -> S:
        """The state of ``batch`` lanes that have read nothing."""

    def forward(self, tokens: Tensor, state: S) -> tuple[Tensor, S]:
        """(B, T) token ids and the state before them -> (B, T, V) logits for the next events, and the state after.

        What the state holds is detached. Gradients reach back to the start of a token's segment, or of its window
        where the model computes that again.
        """

    def restart(self, state: S, lanes: Tensor) -> S:
        """The state with the lanes marked in (B,) bool back at the start of a piece: they see nothing of before."""
