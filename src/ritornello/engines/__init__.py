"""Engines run a model token by token for playing. One protocol here, one file per engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError

ENGINES = ("torch",)


class Session(Protocol):
    """One performance in the making: it reads tokens and says what may follow."""

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""


class Engine(Protocol):
    """A loaded model that can begin any number of performances."""

    name: str
    """of the model, for titles and messages"""
    data: dict[str, str]
    """name and licence of what the model was trained on"""

    def begin(self) -> Session:
        """A session at the start of a piece. Sessions share weights and nothing else."""


def load_engine(model: str, engine: str = "torch") -> Engine:
    """The engine of a name with a bundled model or a checkpoint folder loaded.

    Raises:
        RitornelloError: for an unknown engine, a missing package, or a model that cannot be loaded.
    """
    if engine not in ENGINES:
        raise RitornelloError(f"unknown engine {engine!r}; there is {', '.join(ENGINES)}")
    try:
        from ritornello.engines.framework import TorchEngine
    except ModuleNotFoundError as missing:
        raise RitornelloError(
            f"the torch engine needs the package {missing.name}; install it with: pip install 'ritornello[train]'"
        ) from None
    return TorchEngine.load(model)
