"""Engines run a model token by token for playing. One protocol here, one file per engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError, needing

if TYPE_CHECKING:
    from ritornello.codec import MotifMemory
    from ritornello.models.config import ModelConfig

ENGINES = ("onnx", "onnx-fp32", "torch")
DEFAULT_ENGINE = "onnx"

Saved = dict[str, NDArray[np.generic]]
"""A session at a moment, as named arrays: `numpy.savez` and safetensors keep it. They are copies: it is a value."""


class Session(Protocol):
    """One performance in the making: it reads tokens and says what may follow."""

    motifs: MotifMemory | None
    """its motif memory, where the model has one; a passage may be called back from it between two tokens"""

    @property
    def position(self) -> int:
        """Tokens of the piece that it has read, or takes as read."""

    @property
    def nbytes(self) -> int:
        """Bytes of its memories: of full ones where the model bounds them, else of what they hold now."""

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""

    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (T, V) of the event after each."""

    def tell(self, labels: NDArray[np.floating]) -> None:
        """Tells from the next token on what the music is to be: the weight (L,) of each of the engine's labels."""

    def fork(self) -> Session:
        """Another session at the same moment. What one of them reads the other never sees."""

    def save(self) -> Saved:
        """This moment as a value, for `Engine.resume`."""


class Engine(Protocol):
    """A loaded model that can begin any number of performances."""

    name: str
    """of the model, for titles and messages"""
    trained_on: dict[str, Any]
    """name and licence of the data, and ``shortest_s``, how long the shortest performance is, where that is known"""
    legal: bool
    """whether it was trained under the grammar"""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it can be told of the music to play (`codec.steering`)."""

    @property
    def threads(self) -> int:
        """How many threads it computes with."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of its matrices, which each token reads once."""

    @property
    def memory_tokens(self) -> int:
        """Tokens that fill its memories; none from before them is kept."""

    def begin(self, position: int = 0) -> Session:
        """A session that remembers nothing. Sessions share weights and nothing else.

        At a ``position`` above 0 it stands in the midst of a piece, and takes so many tokens as read and forgotten.
        """

    def resume(self, saved: Mapping[str, NDArray[np.generic]]) -> Session:
        """A session at the moment that `Session.save` kept: the same tokens give the same logits.

        Raises:
            RitornelloError: if it was saved by another engine, or with a model of other sizes. That the weights are
                the same is the caller's to know.
        """


def load_engine(
    model: str, engine: str = DEFAULT_ENGINE, *, threads: int | None = None, memory_bytes: int | None = None
) -> Engine:
    """An engine with a model loaded.

    Args:
        model: a bundled model's name, a checkpoint folder, or (not for torch) an exported folder.
        engine: ``onnx`` (int8 weights), ``onnx-fp32``, or ``torch``.
        threads: None for the engine's own choice.
        memory_bytes: what a performance's memories may take; a DSMR's horizons are cut to fit. None: as trained.

    Raises:
        RitornelloError: for an unknown engine, a missing package, or a model that cannot be loaded.
    """
    if engine not in ENGINES:
        raise RitornelloError(f"unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    with needing(f"the {engine} engine", "'ritornello[train]'" if engine == "torch" else "ritornello"):
        if engine == "torch":
            from ritornello.engines.framework import TorchEngine

            return TorchEngine.load(model, threads=threads, memory_bytes=memory_bytes)
        from ritornello.engines import exported
    return exported.load(model, "int8" if engine == "onnx" else "fp32", threads, memory_bytes)


def identity(engine: str, config: ModelConfig) -> NDArray[np.generic]:
    """What saved sessions of an engine and of models of these sizes have in common, as an array of bytes."""
    return np.frombuffer(f"{engine} {json.dumps(config.to_json(), sort_keys=True)}".encode(), np.uint8)


def check_identity(saved: Mapping[str, NDArray[np.generic]], expected: NDArray[np.generic]) -> None:
    """Raises RitornelloError if a session was saved under another `identity`."""
    if not np.array_equal(saved.get("identity", ()), expected):
        raise RitornelloError("what was saved is of another engine or model; go on with the one that saved it")
