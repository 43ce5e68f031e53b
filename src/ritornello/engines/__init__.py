"""Engines run a model token by token for playing. One protocol here, one file per engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError

ENGINES = ("onnx", "onnx-fp32", "torch")
DEFAULT_ENGINE = "onnx"


class Session(Protocol):
    """One performance in the making: it reads tokens and says what may follow."""

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered, allocated."""

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""

    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (T, V) of the event after each."""


class Engine(Protocol):
    """A loaded model that can begin any number of performances."""

    name: str
    """of the model, for titles and messages"""
    data: dict[str, str]
    """name and licence of what the model was trained on"""
    legal: bool
    """whether it was trained under the grammar"""

    @property
    def threads(self) -> int:
        """That it computes with."""

    @property
    def weight_bytes(self) -> int:
        """Of its matrices, which each token reads once."""

    @property
    def memory_tokens(self) -> int:
        """Tokens that fill its memories; none from before them is kept."""

    def begin(self) -> Session:
        """A session at the start of a piece. Sessions share weights and nothing else."""


def load_engine(model: str, engine: str = DEFAULT_ENGINE, *, threads: int | None = None) -> Engine:
    """An engine with a model loaded.

    Args:
        model: a bundled model's name, a checkpoint folder, or (not for torch) an exported folder.
        engine: ``onnx`` (int8 weights), ``onnx-fp32``, or ``torch``.
        threads: None for the engine's own choice.

    Raises:
        RitornelloError: for an unknown engine, a missing package, or a model that cannot be loaded.
    """
    if engine not in ENGINES:
        raise RitornelloError(f"unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    try:
        if engine == "torch":
            from ritornello.engines.framework import TorchEngine

            return TorchEngine.load(model, threads=threads)
        from ritornello.engines import exported
    except ModuleNotFoundError as missing:
        extra = "'ritornello[train]'" if engine == "torch" else "ritornello"
        raise RitornelloError(
            f"the {engine} engine needs the package {missing.name}; install it with: pip install {extra}"
        ) from None
    return exported.load(model, "int8" if engine == "onnx" else "fp32", threads)
