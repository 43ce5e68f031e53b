"""A folder of made-up songs with a CSV, as a source of corpora."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ritornello.midi import write_midi
from ritornello.notes import Piece


def song(seed: int, count: int = 20) -> Piece:
    generator = np.random.default_rng(seed)
    onset = np.sort(generator.uniform(0, 10, count))
    length = generator.uniform(0.05, 1, count)
    return Piece(onset, onset + length, generator.integers(30, 90, count), generator.integers(1, 128, count))


def write_songs(folder: Path, names: dict[str, int]) -> None:
    for name, seed in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_midi(song(seed), path)


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def row(name: str, split: str) -> dict[str, str]:
    return {
        "canonical_composer": "Clara Schumann",
        "canonical_title": f"No. {name}",
        "split": split,
        "year": "2018",
        "midi_filename": name,
        "duration": "10.0",
    }


def write_songs_with_csv(folder: Path) -> Path:
    """Five songs, ``songs.csv`` beside them; the folder."""
    names = {"2018/a.midi": 1, "2018/b.midi": 2, "2019/c.midi": 3, "2019/d.midi": 4, "e.MID": 5}
    splits = ["train", "validation", "test", "train", "train"]
    write_songs(folder, names)
    write_csv(folder / "songs.csv", [row(name, split) for name, split in zip(names, splits, strict=True)])
    return folder
