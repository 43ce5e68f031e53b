"""Many processes as one trainer: any number of ranks trains the same, is stopped, killed and resumed on another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from short_runs import losses, make_corpus
from tiny import save_model
from torch import Tensor

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.corpus import Corpus
from ritornello.evaluation import _share, evaluate
from ritornello.feed import Augmentation, Crops, Lanes
from ritornello.models.dsmr import DSMR
from ritornello.training.loop import train
from ritornello.training.ranks import Ranks
from ritornello.training.recipes import recipe_named

SETTINGS: dict[str, Any] = {
    "lanes": 3,
    "validate_every_steps": 5,
    "checkpoint_every_s": 0.0,
    "augmentation.stretch": 0.2,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("ranks") / "corpus")


def arguments(corpus: Corpus, run: Path, steps: int, *more: str) -> list[str]:
    options = ["--data", str(corpus.path), "--out", str(run), "--device", "cpu", "--precision", "fp32"]
    return ["train", *options, "--seed", "3", "--steps", str(steps), *more]


def new(recipe: str = "tiny") -> list[str]:
    return ["--recipe", recipe, *(word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}"))]


@contextmanager
def started(ranks: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command line under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*torchrun, "-m", "ritornello", *words], env=environment, **pipes)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate()


def done(ranks: int, *words: str) -> tuple[str, str]:
    """What was said on standard output and standard error."""
    with started(ranks, *words) as process:
        said, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
        return said, errors


def reached(run: Path, step: int) -> bool:
    try:
        return int(load_checkpoint(run / "last").run["step"]) >= step
    except Exception:  # not there yet, or replaced just now
        return False


def wait_for(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    began_s = time.monotonic()
    while not reached(run, step):
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < began_s + 300
        time.sleep(0.1)


def close(one: Path, other: Path) -> None:
    """The same steps, tokens and data; losses and weights to rounding."""
    a, b = (load_checkpoint(run / "last") for run in (one, other))
    assert [a.run[name] for name in ("step", "tokens", "feed")] == [b.run[name] for name in ("step", "tokens", "feed")]
    assert [line[:2] for line in losses(one)] == [line[:2] for line in losses(other)]
    assert [line[2] for line in losses(one)] == pytest.approx([line[2] for line in losses(other)], abs=2e-4)
    expected = b.tensors()
    for name, tensor in a.tensors().items():
        assert (tensor - expected[name]).abs().max() < 2e-3, name


@pytest.mark.parametrize(("recipe", "ranks"), [("tiny", 2), ("tiny", 3), ("perceivers_tiny", 2)])
def test_any_number_of_ranks_trains_the_same(corpus: Corpus, tmp_path: Path, recipe: str, ranks: int) -> None:
    """Three lanes on two ranks are two and one; pieces end where they end."""
    alone = recipe_named(recipe).with_settings(SETTINGS)
    train(corpus, tmp_path / "alone", alone, steps=12, seed=3, precision="fp32", device=torch.device("cpu"))
    done(ranks, *arguments(corpus, tmp_path / "run", 12, *new(recipe)))
    close(tmp_path / "run", tmp_path / "alone")


def test_a_killed_rank_ends_the_run_within_a_minute_and_it_is_resumed_on_fewer(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(3, *arguments(corpus, run, 10_000, *new())) as process:
        wait_for(run, 4, process)
        ranks = children(process.pid)
        assert len(ranks) == 3
        began_s = time.monotonic()
        os.kill(ranks[-1], signal.SIGKILL)
        assert process.wait(60) != 0
        assert time.monotonic() < began_s + 60
    step = load_checkpoint(run / "last").run["step"]
    done(2, *arguments(corpus, run, step + 3, "--resume"))
    assert load_checkpoint(run / "last").run["step"] == step + 3


def test_an_interrupted_run_is_saved_and_resumed_alone(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(2, *arguments(corpus, run, 10_000, *new())) as process:
        wait_for(run, 3, process)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    step = load_checkpoint(run / "last").run["step"]
    recipe = recipe_named("tiny").with_settings(SETTINGS)
    train(corpus, run, recipe, steps=step + 2, resume=True)
    assert load_checkpoint(run / "last").run["step"] == step + 2


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_reads_the_same_pieces(corpus: Corpus, tmp_path: Path, ranks: int) -> None:
    """One of them says what was read. With a single piece most have none."""
    model = DSMR(recipe_named("tiny").model)
    words = ("evaluate", str(save_model(model, tmp_path / "model")), "--data", str(corpus.path), "--device", "cpu")
    for split in ("train", "validation"):
        said, _ = done(ranks, *words, "--split", split, "--legal", "--json")
        figures, expected = json.loads(said), evaluate(model, corpus, split, legal=True).figures()
        assert figures["pieces"] == len(corpus.pieces(split))
        assert figures["tokens"] == expected["tokens"]
        assert figures["nats_per_token"] == pytest.approx(expected["nats_per_token"], rel=1e-6)


def test_the_runs_of_a_study_are_dealt_over_ranks(corpus: Corpus, tmp_path: Path) -> None:
    rows = ("--row", "uniform", "--row", "two-scale", "--row", "ascending")
    short = ("--recipe", "tiny", "--steps", "3", "--seeds", "1", "--pieces", "2", "--device", "cpu")
    _, errors = done(2, "study", "run", "dsmr", "--data", str(corpus.path), "--out", str(tmp_path), *rows, *short)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "ascending-seed-0.json",
        "two-scale-seed-0.json",
        "uniform-seed-0.json",
    ]
    assert all(f"(part {part} of 2)" in errors for part in (1, 2))
    assert [errors.count(f"run {number} of 3") for number in (1, 2, 3)] == [1, 1, 1]


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    if not path.exists():
        pytest.skip("the system does not tell a process's children")
    return sorted(map(int, path.read_text().split()))


# ---- without processes ----


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("segmentation", [None, "random_end", "random_start", "sequential"])
def test_the_shares_of_all_ranks_are_the_batches_of_one(corpus: Corpus, ranks: int, segmentation: str | None) -> None:
    """Each rank's exchange is answered from a feed that has all lanes."""

    def feed(**options: Any) -> Lanes | Crops:
        always: dict[str, Any] = {
            "lanes": 5,
            "seed": 4,
            "grammar": True,
            "augmentation": Augmentation(3, 0.3),
            **options,
        }
        if segmentation is None:
            return Lanes(corpus, "train", segment_tokens=16, interleave=2, **always)
        return Crops(corpus, "train", context_tokens=64, latents=16, segmentation=segmentation, **always)

    answers: list[dict[int, int]] = []
    whole = feed(exchange=lambda own: (answers.append(dict(own)), own)[1])
    batches = [next(whole) for _ in range(15)]
    parts: list[list[Any]] = []
    for rank in range(ranks):
        mine = iter(answers)

        def exchange(own: dict[int, int], mine: Iterator[dict[int, int]] = mine) -> dict[int, int]:
            everyone = next(mine)
            assert segmentation is not None or own.items() <= everyone.items()
            return everyone

        part = feed(share=Ranks(rank, ranks).share(5), exchange=exchange)
        parts.append([next(part) for _ in range(15)])
        assert part.state() == whole.state()
    for batch, *shares in zip(batches, *parts):
        assert [share.tokens for share in shares] == [batch.tokens] * ranks
        assert batch.tokens == np.count_nonzero(batch.targets != codec.PAD)
        for name in ("targets", "piece", "position"):
            assert np.array_equal(np.concatenate([getattr(s, name) for s in shares]), getattr(batch, name)), name
        for share in shares:
            assert share.context is not None


def test_fewer_lanes_than_ranks_are_refused() -> None:
    with one_line("lanes is 2", "3 at least"):
        Ranks(0, 3).share(2)
    assert [Ranks(rank, 3).share(8) for rank in range(3)] == [slice(0, 2), slice(2, 5), slice(5, 8)]


def test_ranks_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [{"corpus": 1, "version": "2"}, {"corpus": 1, "version": "2"}, {"corpus": 1, "version": "3"}]
    monkeypatch.setattr(Ranks, "all", lambda *_: answers)
    with one_line("rank 2 has another version than rank 0"):
        Ranks(1, 3).check_same(corpus=1, version="2")


def test_lanes_of_shorter_memories_are_joined_newest_slot_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from ritornello.training import ranks

    parts = [{"keys/0": torch.ones(2, 3, 4, 5), "position": torch.tensor([7, 8])}]
    parts += [{"keys/0": 2 * torch.ones(1, 3, 2, 5), "position": torch.tensor([9])}]

    def gather(_: dict[str, Tensor], into: list[Any]) -> None:
        into[:] = parts

    monkeypatch.setattr(ranks.dist, "gather_object", gather)
    joined = Ranks(0, 2).joined(parts[0])
    assert joined["position"].tolist() == [7, 8, 9]
    assert joined["keys/0"].shape == (3, 3, 4, 5)
    assert joined["keys/0"][2, 0, :, 0].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_are_dealt_once_and_by_their_length(size: int) -> None:
    lengths, pieces = [5, 1, 1, 1, 1, 1], [3, 4, 6, 7, 9, 10]
    shares = [_share(lengths, pieces, Ranks(rank, size)) for rank in range(size)]
    assert sorted(piece for share in shares for piece in share) == pieces
    if size == 2:
        assert shares == [[3], [4, 6, 7, 9, 10]]
