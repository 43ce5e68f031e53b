"""Draws which tokens each segmentation ever predicts, and with how much context: figure 1 of PerceiverS, from data.

    python tools/segmentation.py data/asap docs/images/segmentation.png

Every batch comes from the feed that training uses (arXiv 2411.08307, section IV-B: random starts leave beginnings out).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.charts import COLOURS, in_house_look, new_figure, save
from ritornello.corpus import Corpus
from ritornello.feed import SEGMENTATIONS, Crops

CROPS_PER_PIECE, BIN_TOKENS = 40, 128


@in_house_look
def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--context", type=int, default=4096, help="N, in tokens")
    parser.add_argument("--latents", type=int, default=512, help="Q, in tokens")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.corpus)
    n, q = arguments.context, arguments.latents
    figure = new_figure(10, 6)
    often, far = figure.subplots(2, 1, sharex=True)
    lengths = np.array([record.tokens for record in corpus.pieces("train")])
    for segmentation, colour in zip(SEGMENTATIONS, COLOURS):
        predicted, context = read(corpus, segmentation, n, q, bins=4 * n // BIN_TOKENS)
        there = np.array([np.clip(lengths - b * BIN_TOKENS, 0, BIN_TOKENS).sum() for b in range(len(predicted))])
        # Each scheme's own number of predictions is shared out, so that the curves compare.
        share = predicted / predicted.sum() * there.sum() / np.maximum(there, 1)
        start = np.arange(len(predicted)) * BIN_TOKENS
        often.step(start, share, where="post", color=colour, label=segmentation)
        mean = np.divide(context, predicted, out=np.full(len(predicted), np.nan), where=predicted > 0)
        far.step(start, mean, where="post", color=colour)
    often.axhline(1, color="#78727a", lw=0.8, ls=":")
    often.set(title=f"How often a token is predicted, against every token alike (N = {n:,}, Q = {q:,})", ylabel="times")
    often.legend()
    far.set(
        title="Context that a predicted token can look at",
        xlabel="position in the piece, tokens",
        ylabel="tokens",
        xlim=(0, 4 * n),
    )
    save(figure, arguments.picture)


def read(
    corpus: Corpus, segmentation: str, n: int, q: int, *, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Predictions, and the sum of their contexts, by position in bins of `BIN_TOKENS`."""
    lanes = len(corpus.pieces("train"))
    feed = Crops(corpus, "train", lanes=lanes, context_tokens=n, latents=q, segmentation=segmentation)
    predicted, context = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    for batch in feed:
        if feed.epoch >= (1 if segmentation == "sequential" else CROPS_PER_PIECE):
            return predicted, context
        real = batch.targets != codec.PAD
        position = batch.position[:, None] + np.arange(q)
        seen = np.broadcast_to(batch.before[:, None] + np.arange(q), position.shape)
        inside = real & (position < bins * BIN_TOKENS)
        np.add.at(predicted, position[inside] // BIN_TOKENS, 1)
        np.add.at(context, position[inside] // BIN_TOKENS, seen[inside])
    raise AssertionError("the feed is endless")


if __name__ == "__main__":
    main()
