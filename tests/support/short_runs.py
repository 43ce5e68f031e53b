"""A short run and what is asked of runs, for the tests of training."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import torch
from tiny import made_up_tokens, tiny_config, write_corpus
from torch import Tensor

from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.feed import Augmentation
from ritornello.training.folder import read_journal
from ritornello.training.loop import Report
from ritornello.training.recipes import Recipe

NEVER_S = 1e9

RECIPE = Recipe(
    name="of the tests",
    model=tiny_config(dropout=0.1),
    lanes=3,
    steps=23,
    augmentation=Augmentation(semitones=3, stretch=0.1),
    warmup_steps=5,
    validate_every_steps=1,
    checkpoint_every_s=NEVER_S,
)


def make_corpus(folder: Path) -> Corpus:
    return write_corpus(folder, {"train": made_up_tokens(1, 20, 9, 30, 14, 25), "validation": made_up_tokens(2, 6)})


def losses(run: Path) -> list[tuple[int, str, float]]:
    """What the log says was lost, in order: step, training or validation, nats/token."""
    return [
        (line["step"], kind, line[kind])
        for line in read_journal(run)
        for kind in ("nats", "validation")
        if kind in line
    ]


def training_losses(run: Path) -> list[float]:
    return [nats for _, kind, nats in losses(run) if kind == "nats"]


def stopping_at(*steps: int) -> Callable[[Report], None]:
    def report(report: Report) -> None:
        if report.step in steps:
            signal.raise_signal(signal.SIGINT)

    return report


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    for name in ("last", "best"):
        a, b = load_checkpoint(one / name), load_checkpoint(other / name)
        timeless = [{k: v for k, v in c.run.items() if not k.endswith("seconds")} for c in (a, b)]
        assert timeless[0] == timeless[1]
        assert equal(a.tensors(), b.tensors())
    assert equal(load_checkpoint(one / "last").tensors("training"), load_checkpoint(other / "last").tensors("training"))
