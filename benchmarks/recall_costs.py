"""What biases of queries and keys and a motif memory cost: a played and a trained token, beside the model without.

    OMP_NUM_THREADS=2 python benchmarks/recall_costs.py data/asap

The recipe ``small`` with random weights, with both, with biases alone and without; real performances are read in turns,
so that whatever else the machine does meets all alike. Played: the engines ``onnx`` and ``onnx-fp32`` with memories
full, token by token. Trained: forward, backward and optimiser, batches included as the loop makes them. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ritornello.checkpoint import save_checkpoint
from ritornello.corpus import Corpus
from ritornello.engines import load_engine
from ritornello.models import build
from ritornello.models.protocol import Model
from ritornello.training.optimisers import Optimisers
from ritornello.training.readers import reader_of
from ritornello.training.recipes import Recipe, small

STRETCH_TOKENS = 256


def main() -> None:
    """Measures all three in turns and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a packed corpus")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.data)
    recipe = small()
    recipes = {
        "without": replace(recipe, model=replace(recipe.streaming, qk_bias=False, motif_notes=0)),
        "biases": replace(recipe, model=replace(recipe.streaming, motif_notes=0)),
        "biases, motif memory": recipe,
    }
    figures = {
        **{f"played, {e}": played(recipes, corpus, e, arguments.rounds) for e in ("onnx", "onnx-fp32")},
        "trained": trained(recipes, corpus, arguments.rounds),
    }
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    for what, rows in figures.items():
        for name, seconds in rows.items():
            ratio = seconds / rows["without"]
            print(f"{what:18} {name:22} {seconds * 1e3:8.3f} ms a token   {ratio:6.3f} x")


def model_of(recipe: Recipe) -> Model[Any]:
    """Random weights under which no branch is silent."""
    torch.manual_seed(0)
    model = build(recipe.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                weight.normal_(std=0.02)
    return model


def played(recipes: dict[str, Recipe], corpus: Corpus, engine: str, rounds: int) -> dict[str, float]:
    """Seconds a token by row, median over stretches."""
    longest = max(corpus.pieces("validation"), key=lambda record: record.tokens)
    tokens = corpus.tokens(longest).astype(np.int64)
    sessions, took_s = {}, {name: [] for name in recipes}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, recipe) in enumerate(recipes.items()):
            family, config = recipe.model.family, recipe.model.to_json()
            weights: dict[str, Any] = {"weights": model_of(recipe).state_dict()}
            where = Path(folder) / str(i)
            save_checkpoint(where, family=family, config=config, trained_on={}, run={}, tensors=weights)
            sessions[name] = load_engine(str(where), engine).begin()
            sessions[name].score(tokens[:4096])
        for round_ in range(rounds):
            stretch = tokens[4096 + round_ * STRETCH_TOKENS :][:STRETCH_TOKENS]
            for name, session in sessions.items():
                began_s = time.perf_counter()
                for token in stretch:
                    session.read(np.array([token]))
                took_s[name].append((time.perf_counter() - began_s) / len(stretch))
    return {name: statistics.median(times) for name, times in took_s.items()}


def trained(recipes: dict[str, Recipe], corpus: Corpus, rounds: int) -> dict[str, float]:
    """Seconds a token by row, median over steps."""
    took_s: dict[str, list[float]] = {name: [] for name in recipes}
    parts = {}
    for name, recipe in recipes.items():
        model = model_of(recipe).train()
        parts[name] = Optimisers(model, recipe), reader_of(model, corpus, recipe, 0, "fp32")
    for _ in range(2 * rounds):
        for name, (optimisers, reader) in parts.items():
            began_s = time.perf_counter()
            batch = next(reader.feed)
            reader.nats(batch, 1.0).mean().backward()
            optimisers.step(1e-3)
            took_s[name].append((time.perf_counter() - began_s) / batch.targets.size)
    # The first steps load every lane's first piece; later ones load one now and then.
    return {name: statistics.median(times[rounds:]) for name, times in took_s.items()}


if __name__ == "__main__":
    main()
