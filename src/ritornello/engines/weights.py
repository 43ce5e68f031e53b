"""A checkpoint's weights as a graph takes them: matrices by columns in float32, or int8 with a scale for each block."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import VOCABULARY_SIZE
from ritornello.engines.sizes import WeightPrecision, block_of
from ritornello.errors import RitornelloError
from ritornello.models.config import DSMRConfig

Arrays = Mapping[str, NDArray[np.float32]]


def initialisers(weights: Arrays, config: DSMRConfig, precision: WeightPrecision) -> dict[str, NDArray[np.generic]]:
    """All that a graph is given at its start, by name.

    The embedding is normalised already, and a head's qk_scale holds the scale D ** -0.5 of scores too.

    Raises:
        RitornelloError: if a weight is missing or has another shape than ``config`` says.
    """
    layers = range(config.schedule.layers)
    embedding = _taken(weights, "embedding.weight", (VOCABULARY_SIZE, config.width))
    values: dict[str, NDArray[np.generic]] = {
        "embedding": embedding / np.sqrt(np.mean(embedding**2, axis=1, keepdims=True) + 1e-6),
        "final_gain": _taken(weights, "final_gain", (config.width,)),
    }
    if config.motif_notes:
        values["hint_embedding"] = _taken(weights, "hint_embedding.weight", (config.hint_ids, config.width))
    if config.labels:
        values["label_embedding"] = _taken(weights, "label_embedding.weight", (1 + len(config.labels), config.width))[
            1:
        ]
    for layer in layers:
        if config.qk_bias:
            bias = _taken(weights, f"blocks.{layer}.qk_bias", (2, config.heads, 1, config.head_size))
            values[f"blocks.{layer}.qk_bias"] = bias.reshape(1, 2 * config.heads, 1, config.head_size)
        for gain in ("attention_gain", "mlp_gain"):
            values[f"blocks.{layer}.{gain}"] = _taken(weights, f"blocks.{layer}.{gain}", (config.width,))
        qk_scale = _taken(weights, f"blocks.{layer}.qk_scale", (config.heads, 1, 1))
        values[f"blocks.{layer}.qk_scale"] = qk_scale * np.float32(config.head_size**-0.5)
    for name, (inputs, outputs) in config.matrices.items():
        matrix = _taken(weights, f"{name}.weight", (outputs, inputs))
        if precision == "fp32":
            values[name] = np.ascontiguousarray(matrix.T)
        else:
            values[f"{name}.int8"], values[f"{name}.scale"] = quantised(matrix)
    return values


def quantised(matrix: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A matrix (N, K) as bytes (N, K / block, block) and scales (N, K / block): weight = (byte - 128) x scale."""
    outputs, inputs = matrix.shape
    blocks = matrix.reshape(outputs, -1, block_of(inputs))
    scale = np.abs(blocks).max(axis=-1) / np.float32(127)
    scale[scale == 0] = 1.0
    return (np.rint(blocks / scale[..., None]) + 128).astype(np.uint8), scale.astype(np.float32)


def _taken(weights: Arrays, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    weight = weights.get(name)
    if weight is None:
        raise RitornelloError(f"the weight {name} is missing: these weights are of another model than the config's")
    if weight.shape != shape:
        raise RitornelloError(f"the weight {name} is {weight.shape}, not {shape}: the weights are of another model")
    if not np.isfinite(weight).all():
        raise RitornelloError(f"the weight {name} holds what is no number: the model is damaged; use another")
    return np.asarray(weight, np.float32)
