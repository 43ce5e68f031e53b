"""Does a model play what it is told? What was asked beside what was played.

    python benchmarks/steering.py data/asap --model base --pieces 12 --tokens 800

First density, loudness and register: nothing told, and the lowest, the middle and the highest step; of pieces with
seeds 0 and on, the means of strikes a second, velocity and pitch. Then composers: a linear discriminant with shared,
shrunken covariance learns from beginnings of training performances, as long as the pieces, to tell composers by the
features of ``ritornello.metrics`` (each standardised; people's accuracy is cross-validated over titles, with composers
weighted alike); it then names those of pieces that were told one. No guidance unless it is asked for. One line of
JSON each.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec import steering
from ritornello.corpus import Corpus
from ritornello.metrics.registry import STANDARD, extract
from ritornello.notes import Piece
from ritornello.performing import load

SHRINKAGE = 0.5  # of the covariance, towards its diagonal
FOLDS = 5
Features = NDArray[np.float64]


def main() -> None:
    """Plays, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a packed corpus, whose training performances teach the composers")
    parser.add_argument("--model", default="base")
    parser.add_argument("--pieces", type=int, default=12, help="for each thing asked")
    parser.add_argument("--tokens", type=int, default=800, help="of each piece")
    parser.add_argument("--composers", default="Bach,Beethoven,Chopin")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    played: dict[str, list[Piece]] = {}
    wanted = [{}, *({name: step} for name in steering.EDGES for step in (1, 4, steering.STEPS))]
    for told in wanted:
        name = ", ".join(f"{name} {step}" for name, step in told.items()) or "nothing"
        played[name] = pieces(asked, **told)
        print(json.dumps({"asked": name, **means(played[name])}), flush=True)
    composers = asked.composers.split(",")
    people, of, titles = performances(Corpus.open(asked.data), composers, asked.tokens)
    right = cross_validated(people, of, titles, len(composers))
    for composer, shares in zip(composers, right):
        print(json.dumps({"people": composer, "recognised as": dict(zip(composers, shares.round(3)))}), flush=True)
    recognise = discriminant(people, of, len(composers))
    for composer in ("nothing", *composers):
        music = played["nothing"] if composer == "nothing" else pieces(asked, composers=composer)
        named = recognise(np.stack([vector(piece) for piece in music]))
        shares = np.bincount(named, minlength=len(composers)) / len(named)
        print(json.dumps({"asked": composer, "recognised as": dict(zip(composers, shares.round(3)))}), flush=True)


def pieces(asked: argparse.Namespace, **told: Any) -> list[Piece]:
    """Pieces of so many tokens, told all the time."""
    named = steering.asked(**told)
    performer = load(asked.model, told=named, guidance=asked.guidance, threads=asked.threads)
    found = []
    for seed in range(asked.pieces):
        events = islice(performer.events(np.random.default_rng(seed), may_end=False), asked.tokens)
        found.append(codec.decode(np.array([token for token, _ in events], np.uint16)))
    return found


def means(played: list[Piece]) -> dict[str, float]:
    """Of all pieces' strikes a second, and of their mean velocities and pitches."""
    return {
        "notes_per_s": round(float(np.mean([len(piece) / piece.seconds for piece in played])), 2),
        "velocity": round(float(np.mean([piece.velocity.mean() for piece in played])), 2),
        "pitch": round(float(np.mean([piece.pitch.mean() for piece in played])), 2),
    }


def performances(
    corpus: Corpus, composers: list[str], tokens: int
) -> tuple[Features, NDArray[np.int64], NDArray[np.int64]]:
    """Features (N, F) of beginnings of training performances, their composers (N,) and titles (N,) as numbers."""
    chosen = [record for record in corpus.pieces("train") if record.composer in composers]
    titles = {key: number for number, key in enumerate(sorted({(r.composer, r.title) for r in chosen}))}
    found = [vector(codec.decode(corpus.tokens(record)[:tokens])) for record in chosen]
    of = [composers.index(record.composer) for record in chosen]
    return np.stack(found), np.array(of), np.array([titles[r.composer, r.title] for r in chosen])


def vector(piece: Piece) -> Features:
    """All standard features of a piece in a row; shares are taken by their roots, which spreads the small ones."""
    values = [np.ravel(np.asarray(value, np.float64)) for value in extract(piece, STANDARD).values()]
    return np.concatenate([np.sqrt(value) if value.size > 1 and (value >= 0).all() else value for value in values])


def discriminant(people: Features, of: NDArray[np.int64], classes: int) -> Any:
    """A function from features (N, F) to the likeliest class (N,), of classes that are equally likely."""
    mean, spread = people.mean(0), people.std(0) + 1e-9
    known = np.clip((people - mean) / spread, -4, 4)
    centres = np.stack([known[of == number].mean(0) for number in range(classes)])
    weights = 1 / np.bincount(of, minlength=classes)[of] / classes
    apart = known - centres[of]
    covariance = (apart * weights[:, None]).T @ apart
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.diag(covariance)) + 1e-3 * np.eye(len(mean))
    directions = np.linalg.solve(covariance, centres.T)
    offsets = -0.5 * (centres * directions.T).sum(1)
    return lambda some: (np.clip((some - mean) / spread, -4, 4) @ directions + offsets).argmax(1)


def cross_validated(
    people: Features, of: NDArray[np.int64], titles: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """(classes, classes) shares of each composer's performances named as each; no title is both taught and asked."""
    fold = np.random.default_rng(0).permutation(titles.max() + 1)[titles] % FOLDS
    named = np.zeros(len(of), np.int64)
    for number in range(FOLDS):
        learnt = fold != number
        named[~learnt] = discriminant(people[learnt], of[learnt], classes)(people[~learnt])
    counts = np.zeros((classes, classes))
    np.add.at(counts, (of, named), 1)
    return counts / counts.sum(1, keepdims=True)


if __name__ == "__main__":
    main()
