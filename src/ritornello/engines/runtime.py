"""The small engine: a model in onnxruntime, without torch, in memory that is allocated before the first note.

Two graphs share the weights' values: one reads a token, the other a chunk of a prompt. Angles of rotary positions are
taken here in float64, so a position far into a piece is as exact as the first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ritornello import codec
from ritornello.engines import Saved, check_identity, identity
from ritornello.engines.rings import Rings
from ritornello.engines.sizes import WeightPrecision, input_shapes, output_shapes, weight_bytes
from ritornello.errors import RitornelloError
from ritornello.models.config import ROTARY_BASE, DSMRConfig

OLDEST = (1, 23)
CHUNK_TOKENS = 64
FATAL = 4  # the only messages of onnxruntime that go to the terminal
Graph = Callable[[int, int], Any]  # the number of tokens and of threads -> an onnxruntime session


class OnnxEngine:
    """See `ritornello.engines.Engine`."""

    def __init__(
        self,
        config: DSMRConfig,
        graph: Graph,
        *,
        precision: WeightPrecision,
        name: str = "",
        trained_on: dict[str, Any] | None = None,
        legal: bool = False,
        threads: int | None = None,
    ) -> None:
        self.config = config
        self.precision = precision
        self.name = name
        self.trained_on = trained_on or {}
        self.legal = legal
        self.threads = threads or default_threads()
        self._graph = graph
        self._sessions: dict[int, Any] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def weight_bytes(self) -> int:
        return weight_bytes(self.config, self.precision)

    @property
    def memory_tokens(self) -> int:
        return self.config.memory_tokens

    def begin(self, position: int = 0) -> OnnxSession:
        return OnnxSession(self, position)

    def resume(self, saved: Mapping[str, NDArray[Any]]) -> OnnxSession:
        check_identity(saved, identity("onnx", self.config))
        return OnnxSession(self, int(saved["position"]), saved)

    def graph(self, tokens: int) -> Any:
        """The onnxruntime session that reads ``tokens`` at once; loaded when it is needed first."""
        if tokens not in self._sessions:
            self._sessions[tokens] = self._graph(tokens, self.threads)
        return self._sessions[tokens]


class OnnxSession:
    """One lane of a DSMR in fixed memory; see `ritornello.engines.Session`."""

    def __init__(self, engine: OnnxEngine, position: int = 0, saved: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._engine, self._position = engine, position
        self._rings = Rings(engine.config)
        self.motifs = engine.config.motif_memory()
        self._label_weights = np.zeros(len(engine.config.labels), np.float32)
        if saved is not None:
            self._label_weights = saved["labels"].copy()
            self._rings.load(saved)
            self.motifs = self.motifs and codec.MotifMemory.from_array(saved["motifs"])
        self._step = _Bound(engine.graph(1), engine.config, self._rings, 1)
        self._chunk: _Bound | None = None

    @property
    def position(self) -> int:
        return self._position

    @property
    def nbytes(self) -> int:
        return self._rings.nbytes + (self.motifs.nbytes if self.motifs else 0)

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        if len(tokens) == 1:
            return self._run(self._step, tokens)[0].copy()
        return self.score(tokens)[-1]

    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        if not len(tokens):
            raise ValueError("a session reads at least one token")
        parts = []
        while len(tokens):
            segment_tokens = self._engine.config.segment_tokens
            length = min(len(tokens), segment_tokens - self._position % segment_tokens, CHUNK_TOKENS)
            if length < CHUNK_TOKENS // 8:  # a chunk costs about as much as so many steps
                length, bound = 1, self._step
            else:
                self._chunk = self._chunk or _Bound(
                    self._engine.graph(CHUNK_TOKENS), self._engine.config, self._rings, CHUNK_TOKENS
                )
                bound = self._chunk
            parts.append(self._run(bound, tokens[:length]).copy())
            tokens = tokens[length:]
        return np.concatenate(parts)

    def tell(self, labels: NDArray[np.floating]) -> None:
        self._label_weights = np.array(labels, np.float32)

    def fork(self) -> OnnxSession:
        return self._engine.resume(self.save())

    def save(self) -> Saved:
        motifs = {"motifs": self.motifs.to_array()} if self.motifs else {}
        mine = {"identity": identity("onnx", self._engine.config), "position": np.array(self._position)}
        return {**mine, "labels": self._label_weights.copy(), **self._rings.save(), **motifs}

    def _run(self, bound: _Bound, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        hints = self.motifs.read(tokens) if self.motifs else None
        logits = bound.run(self._position, tokens, hints, self._label_weights)
        self._position += len(tokens)
        return logits


class _Bound:
    """A graph with its inputs and outputs in memory of their own, and the rings."""

    def __init__(self, graph: Any, config: DSMRConfig, rings: Rings, tokens: int) -> None:
        self._graph, self._rings = graph, rings
        of_rings = dict(rings.inputs())
        self._inputs = {
            name: np.zeros(shape, np.int64 if name in ("tokens", "hints") else np.float32)
            for name, shape in input_shapes(config, tokens).items()
            if name not in of_rings
        }
        self._outputs = {name: np.zeros(shape, np.float32) for name, shape in output_shapes(config, tokens).items()}
        self._rates = ROTARY_BASE ** (-np.arange(config.head_size // 2) / (config.head_size // 2))
        self._sliding = {name: int(name.split(".")[1]) for name in self._inputs if name.startswith("seen.")}
        self._binding = graph.io_binding()
        for name, array in (self._inputs | of_rings).items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in self._outputs.items():
            self._binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))

    def run(
        self,
        position: int,
        tokens: NDArray[np.integer],
        hints: NDArray[np.integer] | None,
        labels: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """The logits (T, V), valid until the next run. Rows of a chunk beyond the tokens given are of no meaning."""
        inputs, length = self._inputs, len(tokens)
        inputs["tokens"][:length] = tokens
        if hints is not None:
            inputs["hints"][:length] = hints
        if len(labels):
            inputs["labels"][0] = labels
        angles = np.arange(position, position + inputs["cos"].shape[1])[:, None] * self._rates
        np.cos(angles, out=inputs["cos"][0], casting="same_kind")
        np.sin(angles, out=inputs["sin"][0], casting="same_kind")
        self._rings.before_reading(position)
        for name, horizon in self._sliding.items():
            self._rings.sliding(horizon, position, inputs[name])
        self._graph.run_with_iobinding(self._binding)
        outputs = self._outputs
        self._rings.write(position, outputs["new_keys"][..., :length], outputs["new_values"][:, :, :length])
        return outputs["logits"][:length]


def open_graph(
    graph: bytes | str,
    config: DSMRConfig,
    tokens: int,
    *,
    precision: WeightPrecision,
    weights: Mapping[str, NDArray[np.generic]],
    threads: int,
) -> Any:
    """An onnxruntime session of a graph: of its content, or of the path of its file beside its weights.

    Weights that are not in a file come by name, and are used where they are, not copied.

    Raises:
        RitornelloError: for a graph that onnxruntime cannot load, or of other shapes; for too old an onnxruntime.
    """
    check_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # beside other work it starves both
    options.log_severity_level = FATAL
    if precision == "fp32":  # one token's product reads a matrix once: packed, it would be there twice and no faster
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
        options.add_external_initializers(list(weights), values)
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no other base class
        first = str(error).strip().splitlines()[0][:200]
        raise RitornelloError(f"onnxruntime cannot load the graph ({first}); export the model again") from None
    inputs = {value.name: tuple(value.shape) for value in session.get_inputs()}
    outputs = {value.name: tuple(value.shape) for value in session.get_outputs()}
    if inputs != input_shapes(config, tokens) or outputs != output_shapes(config, tokens):
        raise RitornelloError("the graph's shapes are not those of this model; export the model again")
    return session


def check_runtime() -> None:
    """Raises RitornelloError for an onnxruntime that does not know the graph's operators."""
    numbers = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if numbers < OLDEST:
        raise RitornelloError(
            f"onnxruntime {ort.__version__} is too old; install {'.'.join(map(str, OLDEST))} or later: "
            "pip install -U onnxruntime"
        )


def default_threads() -> int:
    """As many as this process may use, four at most: a step is bound by memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)
