"""The model as an ONNX graph of fixed shapes: so many tokens of one lane against a memory of so many slots.

Read beside ``models/dsmr.py``, which it repeats node by node. Memories are inputs and only the new keys and values are
outputs, so that whoever runs the graph decides where they are put; which slot is visible comes as numbers to add to the
scores (0 or minus infinity). Weights are external data: the graph itself is small.

Axes: T tokens, L layers, H heads, D head size, C width, R_h slots of a layer of horizon h, V events.
Inputs: tokens (T,) int64; with a motif memory hints (T, F) int64; with labels the weight
of each that is told, labels (1, N); cos, sin (1, T, D / 2); seen.h (1 or T, R_h);
keys.l (1, H, D, R_h), values.l (1, H, R_h, D).
Outputs: logits (T, V), new_keys (L, H, D, T), new_values (L, H, T, D).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ritornello.engines.sizes import WEIGHTS_FILE, WeightPrecision, block_of, input_shapes, output_shapes
from ritornello.models.config import DSMRConfig

OPSET, IR_VERSION = 23, 10
Spans = Mapping[str, tuple[int, int]]  # where in the file each initialiser lies: first byte and number of bytes


def build_graph(
    config: DSMRConfig,
    *,
    tokens: int,
    precision: WeightPrecision,
    initialisers: Mapping[str, NDArray[np.generic]],
    spans: Spans | None = None,
) -> bytes:
    """The graph that reads ``tokens`` tokens at once, serialised; its weights are named, not held."""
    return _Graph(config, tokens, precision).build(initialisers, spans or {})


class _Graph:
    def __init__(self, config: DSMRConfig, tokens: int, precision: WeightPrecision) -> None:
        self.config, self.tokens, self.precision = config, tokens, precision
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}

    def build(self, initialisers: Mapping[str, NDArray[np.generic]], spans: Spans) -> bytes:
        config, length = self.config, self.tokens
        x = self.node("Gather", "embedding", "tokens")
        if config.motif_notes:
            columns = self.constant("columns", np.array([1], np.int64))
            hinted = self.node("ReduceSum", self.node("Gather", "hint_embedding", "hints"), columns, keepdims=0)
            x = self.node("Add", x, hinted)
        if config.labels:
            x = self.node("Add", x, self.node("MatMul", "labels", "label_embedding"))
        new_keys, new_values = [], []
        for layer, horizon in enumerate(config.horizons):
            x, k, v = self.block(x, layer, horizon)
            new_keys.append(k)
            new_values.append(v)
        logits = self.matrix(self.norm(x, "final_gain"), "head")
        self.node("Identity", logits, to="logits")
        self.node("Concat", *new_keys, axis=0, to="new_keys")
        self.node("Concat", *new_values, axis=0, to="new_values")
        graph = helper.make_graph(
            self.nodes,
            "ritornello",
            [_described(name, shape) for name, shape in input_shapes(config, length).items()],
            [_described(name, shape) for name, shape in output_shapes(config, length).items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
            + [_external(name, value, spans.get(name)) for name, value in initialisers.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if self.precision == "int8":
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ritornello")
        content: bytes = model.SerializeToString()
        return content

    def block(self, x: str, layer: int, horizon: int) -> tuple[str, str, str]:
        """One layer: the stream after it, its new keys (1, H, D, T) and values (1, H, T, D)."""
        config, name = self.config, f"blocks.{layer}"
        heads, length = config.heads, self.tokens
        qkv = self.matrix(self.norm(x, f"{name}.attention_gain"), f"{name}.qkv")
        qk, v = self.split(qkv, (2 * config.width, config.width), axis=1)
        qk = self.by_heads(qk, 2 * heads)
        if config.qk_bias:
            qk = self.node("Add", qk, f"{name}.qk_bias")
        rotated = self.node("RotaryEmbedding", self.norm(qk, "ones"), "cos", "sin")
        q, k = self.split(rotated, (heads, heads), axis=1)
        q = self.node("Mul", q, f"{name}.qk_scale")
        v = self.by_heads(v, heads)
        k = self.node("Transpose", k, perm=[0, 1, 3, 2])
        remembered = self.node("Add", self.node("MatMul", q, f"keys.{layer}"), f"seen.{horizon}")
        own = self.node("MatMul", q, k)
        if length > 1:
            causal = np.where(np.tri(length, dtype=bool), 0, -np.inf).astype(np.float32)
            own = self.node("Add", own, self.constant("causal", causal))
        shares = self.node("Softmax", self.node("Concat", remembered, own, axis=3), axis=3)
        of_memory, of_own = self.split(shares, (config.room(horizon), length), axis=3)
        attended = self.node("Add", self.node("MatMul", of_memory, f"values.{layer}"), self.node("MatMul", of_own, v))
        attended = self.node("Transpose", attended, perm=[0, 2, 1, 3])
        x = self.node("Add", x, self.matrix(self.reshaped(attended, length, config.width), f"{name}.out"))
        wide = self.matrix(self.norm(x, f"{name}.mlp_gain"), f"{name}.gate_up")
        gate, up = self.split(wide, (config.mlp_width, config.mlp_width), axis=1)
        silu = self.node("Mul", gate, self.node("Sigmoid", gate))
        return self.node("Add", x, self.matrix(self.node("Mul", silu, up), f"{name}.down")), k, v

    def matrix(self, x: str, name: str) -> str:
        if self.precision == "fp32":
            return self.node("MatMul", x, name)
        inputs, outputs = self.config.matrices[name]
        # accuracy_level 4: activations become int8 too, each block of a row with a scale of its own. Sums are taken in
        # another order for another number of rows, so logits depend a little on what is read together.
        sized: dict[str, Any] = {
            "K": inputs,
            "N": outputs,
            "bits": 8,
            "block_size": block_of(inputs),
            "accuracy_level": 4,
        }
        return self.node("MatMulNBits", x, f"{name}.int8", f"{name}.scale", domain="com.microsoft", **sized)

    def norm(self, x: str, gain: str) -> str:
        if gain == "ones":
            gain = self.constant("ones", np.ones(self.config.head_size, np.float32))
        return self.node("RMSNormalization", x, gain, axis=-1, epsilon=1e-6)

    def by_heads(self, x: str, heads: int) -> str:
        """(T, heads x D) -> (1, heads, T, D)."""
        split = self.reshaped(x, 1, self.tokens, heads, self.config.head_size)
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def reshaped(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.constant("x".join(map(str, shape)), np.array(shape, np.int64)))

    def split(self, x: str, parts: tuple[int, int], *, axis: int) -> tuple[str, str]:
        a, b = f"n{len(self.nodes)}a", f"n{len(self.nodes)}b"
        lengths = self.constant("+".join(map(str, parts)), np.array(parts, np.int64))
        self.nodes.append(helper.make_node("Split", [x, lengths], [a, b], axis=axis))
        return a, b

    def node(self, kind: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
        output = to or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = value
        return name


def _described(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    kind = TensorProto.INT64 if name in ("tokens", "hints") else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, shape)


def _external(name: str, value: NDArray[np.generic], span: tuple[int, int] | None) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": WEIGHTS_FILE}
    if span is not None:
        entries |= {"offset": str(span[0]), "length": str(span[1])}
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return tensor
