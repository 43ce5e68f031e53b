"""Training on one's own files in one sitting: a folder packed by itself, settings that fit, and what came of it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from ritornello.cli.common import count_bar, music_bar, output
from ritornello.cli.corpora import show_corpus
from ritornello.errors import RitornelloError, counted

COMPARED_PIECES = 16  # that are held out, read before and after
PLAYED_S = 60.0
PASSES = 2
"""over the files that a model is fine-tuned on, at most: with more it knew held-out pieces no better"""


def is_packed(data: Path) -> bool:
    """Whether it is a corpus, or nothing at all, and no files to be packed."""
    from ritornello.corpus.shards import MANIFEST

    return (data / MANIFEST).is_file() or not data.exists() or (data.is_dir() and not any(data.iterdir()))


def packed(files: Path, out: Path, init: str | None, *, resume: bool) -> Any:
    """The corpus of one's own files in the run's folder, made if it is not there.

    Raises:
        RitornelloError: if the folder holds another run, ``init`` is no model, or nothing of the files can be used.
    """
    from ritornello.checkpoint import load_checkpoint
    from ritornello.corpus import Corpus
    from ritornello.corpus.prepare import prepare
    from ritornello.training.folder import check_unused

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RitornelloError(f"{files}: is no packed corpus; for several processes make one with data prepare")
    if not resume:
        check_unused(out)
    if init is not None:
        load_checkpoint(init)  # packing may take long; what cannot go on afterwards is told now
    folder, is_new = out / "corpus", not out.exists()
    if not folder.exists():
        try:
            with count_bar() as progress:
                corpus = prepare(files, folder, name=files.resolve().name, progress=progress)
        except RitornelloError:
            if is_new:
                with suppress(OSError):
                    out.rmdir()
            raise
        show_corpus(corpus, as_json=False, table=False)
    return Corpus.open(folder)


def recipe_for(corpus: Any, init: str | None, device: Any, lanes: int | None = None) -> Any:
    """A recipe of a size that the device and the corpus can make use of: to fine-tune ``init``, or to begin anew.

    Its steps are of so many ``lanes`` if they are given.
    """
    from ritornello.checkpoint import load_checkpoint
    from ritornello.models.config import read_config
    from ritornello.training.fitting import fitting
    from ritornello.training.recipes import recipe_named

    if init is None:
        recipe = recipe_named("base" if device.type == "cuda" else "small")
        return fitting(recipe, recipe.model, corpus, device)
    start, recipe = load_checkpoint(init), recipe_named("tune")
    if start.family != recipe.model.family:
        raise RitornelloError(f"{init}: is of the family {start.family}; name a recipe of that family with --recipe")
    model = read_config(start.family, start.config)
    recipe = fitting(recipe, model, corpus, device)
    tokens = sum(piece.tokens for piece in corpus.pieces("train"))
    steps = min(recipe.steps, math.ceil(PASSES * tokens / (model.step_tokens * (lanes or recipe.lanes))))
    return replace(
        recipe,
        steps=steps,
        warmup_steps=min(recipe.warmup_steps, steps // 4),
        validate_every_steps=min(recipe.validate_every_steps, max(1, steps // 4)),
    )


def likelihood(model: str | Path, corpus: Any, device: Any, *, legal: bool) -> dict[str, Any]:
    """Nats/token of pieces that are held out: of test where there are some, else those of validation."""
    from ritornello.checkpoint import load_checkpoint
    from ritornello.evaluation import evaluate
    from ritornello.models import from_checkpoint

    split = "test" if "test" in corpus.splits() else "validation"
    pieces = list(range(min(COMPARED_PIECES, len(corpus.pieces(split)))))
    network = from_checkpoint(load_checkpoint(model)).to(device)
    with count_bar(f"tokens of {split}, by {model}") as progress:
        result = evaluate(network, corpus, split, legal=legal, pieces=pieces, progress=progress)
    return {"split": split, "pieces": len(pieces), "nats_per_token": result.nats_per_token}


def play(model: str | Path, path: Path, seed: int) -> None:
    """A minute of a model, drawn with the seed."""
    from ritornello.performing import load

    try:
        performer = load(str(model))
    except RitornelloError:  # its family has no graph, or there is no onnx to make it
        performer = load(str(model), engine="torch")
    with music_bar(PLAYED_S) as progress:
        performance = performer.generate(seconds=PLAYED_S, seed=seed, again=True, progress=progress)
    performance.piece.write(path)


def show(before: tuple[str, dict[str, Any]], after: tuple[Path, dict[str, Any]], kind: str, seed: int) -> None:
    """What a model knew of pieces that are held out, and what it knows now; where each is to be heard."""
    (name, knew), (run, knows) = before, after
    heading = f"{counted(knew['pieces'], 'pieces')} held out ({knew['split']}), and a minute with seed {seed}"
    table = Table("", f"{kind} nats/token", "hear", title=heading)
    table.add_row(name, f"{knew['nats_per_token']:.4f}", str(run / "before.mid"))
    table.add_row(str(run), f"{knows['nats_per_token']:.4f}", str(run / "after.mid"))
    output.print(table)
    if knows["nats_per_token"] >= knew["nats_per_token"]:
        output.print(f"It foresees what is held out no better than {name}: give it more pieces, or fewer steps.")
