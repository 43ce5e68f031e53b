"""Small corpora and models, for tests that train and evaluate in a second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import made_up_piece
from numpy.typing import NDArray

from ritornello import codec
from ritornello.checkpoint import save_checkpoint
from ritornello.corpus import Corpus
from ritornello.corpus.shards import ROW, SPLITS, Records, line_of, write_shard
from ritornello.corpus.shards import write_corpus as write_corpus_files
from ritornello.horizons import HorizonSchedule
from ritornello.models.config import DSMRConfig
from ritornello.models.dsmr import DSMR
from ritornello.models.protocol import Model

SEGMENT_TOKENS = 16
DATA = {"name": "made up", "licence": "CC0"}

Tokens = NDArray[np.uint16]


def made_up_tokens(seed: int, *notes: int) -> list[Tokens]:
    """One made-up piece per number of notes, encoded; a note takes four to six tokens."""
    rng = np.random.default_rng(seed)
    return [codec.encode(made_up_piece(rng, notes=n, seconds=n * 0.3)) for n in notes]


def write_corpus(folder: Path, splits: Mapping[str, Iterable[Tokens]]) -> Corpus:
    """A corpus of the given pieces, one shard per split."""
    folder.mkdir(parents=True)
    rows, text, shards = [], b"", {}
    for split, pieces in sorted(splits.items(), key=lambda item: SPLITS.index(item[0])):
        pieces, name, start = list(pieces), f"{split}-000.npy", 0
        for number, tokens in enumerate(pieces):
            notes, seconds = int(np.sum(tokens < codec.NOTE_OFF)), codec.seconds_of(tokens)
            place = SPLITS.index(split), len(shards), start
            rows.append((len(rows), 0, *place, len(tokens), notes, seconds, len(text)))
            text += line_of("", str(number), f"{split}/{number}.mid")
            start += len(tokens)
        shards[name] = write_shard(folder / name, pieces)
    records = Records(np.array(rows, ROW), text, list(shards))
    write_corpus_files(folder, records, shards, {"name": "made up", "licence": "CC0"}, {})
    return Corpus.open(folder)


def tiny_config(**changes: object) -> DSMRConfig:
    """Width 32, two layers, S = 16, with a long and a short memory."""
    settings = {
        "schedule": HorizonSchedule((64, 16)),
        "width": 32,
        "heads": 2,
        "mlp_width": 48,
        "segment_tokens": SEGMENT_TOKENS,
    }
    return DSMRConfig(**(settings | changes))  # type: ignore[arg-type]


def random_model(seed: int, **changes: object) -> DSMR:
    """A model whose every weight is random: none of its branches is silent, so memory and depth matter."""
    model = DSMR(tiny_config(**changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.25, generator=generator)
            if parameter.ndim != 2:
                parameter.add_(1.0)
            elif name == "head.weight":
                parameter.mul_(2.0)
    return model.eval()


def save_model(
    model: Model[Any],
    folder: Path,
    *,
    run: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    trained_on: Mapping[str, Any] = DATA,
) -> Path:
    """A checkpoint of its weights, or of these tensors; ``run`` is that of a model trained under the grammar."""
    save_checkpoint(
        folder,
        family=model.config.family,
        config=model.config.to_json(),
        trained_on=trained_on,
        run={"legal": True} if run is None else run,
        tensors=tensors or {"weights": model.state_dict()},
    )
    return folder
