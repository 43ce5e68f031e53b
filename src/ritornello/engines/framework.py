"""The training framework's engine: any family, by its own `forward`. The reference for the others, not the fastest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.engines import Saved, check_identity, identity
from ritornello.models import from_checkpoint
from ritornello.models.protocol import Model, named_tensors, nbytes, with_tensors


class TorchEngine:
    """See `ritornello.engines.Engine`. The model is put to evaluation and otherwise left as it is."""

    def __init__(
        self, model: Model[Any], *, name: str = "", trained_on: dict[str, Any] | None = None, legal: bool = False
    ) -> None:
        self.model = model.eval()
        self.name = name
        self.trained_on = trained_on or {}
        self.legal = legal

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.model.config.labels

    @property
    def weight_bytes(self) -> int:
        matrices, _ = self.model.parameter_groups()
        return sum(weight.numel() * weight.element_size() for weight in (*matrices.values(), self.model.head.weight))

    @property
    def memory_tokens(self) -> int:
        return self.model.config.memory_tokens

    @classmethod
    def load(cls, model: str, *, threads: int | None = None, memory_bytes: int | None = None) -> TorchEngine:
        """From a bundled model's name or a checkpoint folder. Raises RitornelloError as `from_checkpoint` does."""
        checkpoint = load_checkpoint(model)
        if threads is not None:
            torch.set_num_threads(threads)
        about: dict[str, Any] = {"trained_on": checkpoint.trained_on, "legal": checkpoint.legal}
        return cls(from_checkpoint(checkpoint, memory_bytes=memory_bytes), name=str(model), **about)

    def begin(self, position: int = 0) -> TorchSession:
        state = self.model.initial_state(1)
        tensors = named_tensors(state)
        if "position" in tensors:
            state = with_tensors(state, tensors | {"position": torch.full_like(tensors["position"], position)})
        return TorchSession(self.model, state, position, self.model.config.motif_memory())

    def resume(self, saved: Mapping[str, NDArray[Any]]) -> TorchSession:
        check_identity(saved, identity("torch", self.model.config))
        form = self.model.initial_state(1)
        tensors = {
            name: torch.tensor(saved[f"state/{name}"], device=t.device) for name, t in named_tensors(form).items()
        }
        motifs = codec.MotifMemory.from_array(saved["motifs"]) if "motifs" in saved else None
        session = TorchSession(self.model, with_tensors(form, tensors), int(saved["position"]), motifs)
        session.tell(saved["labels"])
        return session


class TorchSession:
    """One lane of a model; see `ritornello.engines.Session`. Its state is a value, so that forks share it."""

    def __init__(self, model: Model[Any], state: Any, position: int, motifs: codec.MotifMemory | None) -> None:
        self._model, self._state, self._position, self.motifs = model, state, position, motifs
        self._label_weights = np.zeros(len(model.config.labels), np.float32)

    @property
    def position(self) -> int:
        return self._position

    @property
    def nbytes(self) -> int:
        held = nbytes(self._state) + (self.motifs.nbytes if self.motifs else 0)
        return self._model.config.state_bytes or held

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.score(tokens)[-1]

    @torch.inference_mode()
    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        if not len(tokens):
            raise ValueError("a session reads at least one token")
        hints = self.motifs.read(tokens) if self.motifs else None
        labels, instead = None, {}
        if self._label_weights.any():  # all that is told is one vector, read as if it were the first label's
            table = self._model.state_dict()["label_embedding.weight"]
            vector = torch.from_numpy(self._label_weights).to(table) @ table[1:]
            labels, instead = np.ones((len(tokens), 1), np.int64), {"label_embedding.weight": vector.expand(2, -1)}
        rows = torch.from_numpy(codec.with_hints(tokens, hints, labels))[None].to(self._model.device)
        logits, self._state = functional_call(self._model, instead, (rows, self._state))
        self._position += len(tokens)
        values: NDArray[np.float32] = logits[0].cpu().numpy()
        return values

    def tell(self, labels: NDArray[np.floating]) -> None:
        self._label_weights = np.array(labels, np.float32)

    def fork(self) -> TorchSession:
        twin = TorchSession(self._model, self._state, self._position, self.motifs and self.motifs.copy())
        twin.tell(self._label_weights)
        return twin

    def save(self) -> Saved:
        motifs = {"motifs": self.motifs.to_array()} if self.motifs else {}
        state = {f"state/{name}": tensor.cpu().numpy().copy() for name, tensor in named_tensors(self._state).items()}
        mine = {"identity": identity("torch", self._model.config), "position": np.array(self._position)}
        mine["labels"] = self._label_weights.copy()
        return {**mine, **state, **motifs}
