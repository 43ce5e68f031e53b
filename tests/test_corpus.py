"""Corpora: every file is packed or accounted for, splits do not leak, and no file or disk can spoil the rest."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk, one_line
from midi_bytes import ONE_NOTE
from songs import row, write_csv, write_songs, write_songs_with_csv

from ritornello.codec import decode, encode
from ritornello.corpus import Corpus, prepare, shards
from ritornello.corpus.prepare import merge
from ritornello.corpus.prepare import prepare as make
from ritornello.errors import RitornelloError
from ritornello.files import with_checksum
from ritornello.midi import read_midi, write_midi
from ritornello.notes import Piece


def expected_tokens(path: Path) -> list[int]:
    return encode(read_midi(path)).tolist()


def sources(corpus: Corpus, split: str) -> list[str]:
    return [record.file for record in corpus.pieces(split)]


@pytest.fixture
def songs(tmp_path):
    """A CSV corpus of five songs and the folder it lies in."""
    return write_songs_with_csv(tmp_path / "songs")


@pytest.fixture
def corpus(songs, tmp_path):
    return make(songs, tmp_path / "packed", csv=songs / "songs.csv", licence="CC0", workers=1)


# ---- what is packed ----


def test_every_row_of_a_csv_is_packed_with_what_the_csv_says(corpus, songs):
    assert corpus.splits() == {"train": 3, "validation": 1, "test": 1}
    assert sources(corpus, "train") == ["2018/a.midi", "2019/d.midi", "e.MID"]
    for record in corpus.records:
        assert corpus.tokens(record).tolist() == expected_tokens(songs / record.file)
        assert (record.composer, record.title) == ("Clara Schumann", f"No. {record.file}")
    assert (corpus.name, corpus.licence) == ("packed", "CC0")


def test_a_record_counts_tokens_notes_and_seconds(corpus):
    for record in corpus.records:
        tokens = corpus.tokens(record)
        piece = decode(tokens)
        assert record.tokens == len(tokens)
        assert record.notes == len(piece)
        assert record.seconds == pytest.approx(piece.seconds, abs=1e-6)


def test_tokens_are_a_read_only_view_of_the_mapped_file(corpus):
    tokens = corpus.tokens(corpus.pieces("test")[0])
    assert tokens.dtype == np.uint16
    assert not tokens.flags.writeable
    assert not tokens.flags.owndata


def test_a_corpus_can_be_sent_to_another_process(corpus):
    again = pickle.loads(pickle.dumps(corpus))
    assert list(again.records) == list(corpus.records)


def test_a_full_shard_is_followed_by_the_next(songs, tmp_path, monkeypatch):
    longest = max(len(expected_tokens(path)) for path in songs.rglob("*.[mM][iI][dD]*"))
    monkeypatch.setattr(prepare, "SHARD_BYTES", 2 * (longest + 70))
    corpus = make(songs, tmp_path / "packed", csv=songs / "songs.csv", workers=1)
    files = [path.name for path in sorted((tmp_path / "packed").glob("*-*.npy"))]
    assert files == [
        "test-000.npy",
        "train-000.npy",
        "train-001.npy",
        "train-002.npy",
        "validation-000.npy",
    ]
    for record in corpus.records:
        assert corpus.tokens(record).tolist() == expected_tokens(songs / record.file)


def test_the_same_source_and_seed_give_the_same_bytes(songs, tmp_path):
    for name, count in (("one", 1), ("two", 2)):
        make(songs, tmp_path / name, seed=3, name="x", workers=count)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_names_come_from_the_folders_and_licence_files_are_mentioned(tmp_path):
    write_songs(tmp_path / "midi", {"Bach/Fugues/846.mid": 1, "Bach/Fugues/848.MIDI": 2, "lonely.mid": 3})
    (tmp_path / "midi" / "LICENSE.txt").write_text("free")
    (tmp_path / "midi" / "notes.txt").write_text("no music")
    corpus = make(tmp_path / "midi", tmp_path / "packed", workers=1)
    found = {record.file: (record.composer, record.title) for record in corpus.records}
    assert found == {
        "Bach/Fugues/846.mid": ("Bach", "Fugues/846"),
        "Bach/Fugues/848.MIDI": ("Bach", "Fugues/848"),
        "lonely.mid": ("", "lonely"),
    }
    assert corpus.manifest["licence_files"] == ["LICENSE.txt"]


def test_files_of_a_csv_may_lie_in_the_source_folder_instead(songs, tmp_path):
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    shutil.move(songs / "songs.csv", elsewhere / "songs.csv")
    assert len(make(songs, tmp_path / "packed", csv=elsewhere / "songs.csv", workers=1).records) == 5


def test_programs_not_asked_for_are_left_out(songs, tmp_path):
    with pytest.raises(RitornelloError, match="holds no notes"):
        make(songs, tmp_path / "packed", keep_programs={7}, workers=1)


# ---- splits and duplicates ----


def test_folders_named_after_splits_are_the_splits(tmp_path):
    write_songs(tmp_path / "midi", {"train/x/1.mid": 1, "Valid/2.mid": 2, "test/3.mid": 3})
    corpus = make(tmp_path / "midi", tmp_path / "packed", workers=1)
    assert [sources(corpus, split) for split in ("train", "validation", "test")] == [
        ["train/x/1.mid"],
        ["Valid/2.mid"],
        ["test/3.mid"],
    ]
    assert corpus.pieces("train")[0].composer == "x"


def test_a_file_outside_the_split_folders_is_refused_by_name(tmp_path):
    write_songs(tmp_path / "midi", {"train/1.mid": 1, "test/2.mid": 2, "stray/3.mid": 3})
    with pytest.raises(RitornelloError, match=r"stray/3\.mid lies outside the split folders in which test/2\.mid is"):
        make(tmp_path / "midi", tmp_path / "packed", workers=1)


def melodies(folder: Path, takes: dict[str, tuple[int, int, float]], *, notes: int = 300) -> Path:
    """Files of made-up melodies: by name (melody, semitones, share of notes that are played wrong)."""
    folder.mkdir()
    for place, (name, (melody, semitones, wrong)) in enumerate(takes.items()):
        pitch = np.random.default_rng(melody).integers(40, 80, notes) + semitones
        rng = np.random.default_rng([7, place])
        mistaken = np.flatnonzero(rng.random(notes) < wrong)
        pitch[mistaken] += rng.integers(1, 4, len(mistaken))
        onset = np.cumsum(rng.uniform(0.1, 0.3, notes))
        write_midi(Piece(onset, onset + 0.1, pitch, np.full(notes, 64)), folder / name)
    return folder


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (30, (24, 3, 3))]
)
def test_without_splits_a_tenth_each_is_held_out(tmp_path, count, sizes):
    midi = melodies(tmp_path / "midi", {f"{n}.mid": (n, 0, 0) for n in range(count)}, notes=20)
    corpora = [make(midi, tmp_path / name, seed=seed, workers=1) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    assert tuple(len(corpora[0]._of(split)) for split in shards.SPLITS) == sizes
    splits = [sorted((record.file, record.split) for record in corpus.records) for corpus in corpora]
    assert splits[0] == splits[1]
    assert count < 10 or splits[0] != splits[2], "the seed chooses"


@pytest.mark.parametrize("seed", range(3))
def test_takes_of_the_same_music_stay_together_and_are_told(tmp_path, seed):
    """In another key, with three of ten notes wrong, and of names that tell nothing."""
    takes = {"a.mid": (0, 0, 0), "k.mid": (0, 5, 0.1), "x.mid": (0, -7, 0.3), "same as a.mid": (0, 0, 0)}
    others = {f"{n}.mid": (n, 0, 0) for n in range(1, 20)}
    midi = melodies(tmp_path / "midi", takes | others, notes=1000)
    corpus = make(midi, tmp_path / "packed", seed=seed, workers=1)
    assert {len(corpus._of(split)) for split in ("validation", "test")} == {2}
    splits = {record.file: record.split for record in corpus.records}
    assert {splits[name] for name in takes} == {"train"}, "four of 23 are more than are held out"
    assert [set(group["files"]) for group in corpus.report["takes"]] == [set(takes)]


def test_takes_in_splits_that_the_source_names_stay_there_and_are_told(tmp_path, command):
    names = {"a.mid": (0, 0, 0), "b.mid": (1, 0, 0), "c.mid": (0, 3, 0.2), "d.mid": (1, 0, 0.1)}
    midi = melodies(tmp_path / "midi", names)
    for name, split in zip(names, ("train", "train", "test", "train")):
        (midi / split).mkdir(exist_ok=True)
        (midi / name).rename(midi / split / name)
    corpus = make(midi, tmp_path / "packed", workers=1)
    assert corpus.splits() == {"train": 3, "test": 1}
    assert corpus.report["takes"] == [{"files": ["test/c.mid", "train/a.mid"], "splits": ["test", "train"]}]
    told = command("data", "prepare", midi, tmp_path / "again")
    assert "the same music, in test and train, as the source says: test/c.mid, train/a.mid" in told.err


def test_pieces_of_one_composer_and_title_stay_together(tmp_path):
    midi = melodies(tmp_path / "midi", {f"{n}.mid": (n, 0, 0) for n in range(40)}, notes=20)
    rows = [{**row(f"{n}.mid", ""), "canonical_title": f"No. {n // 2}"} for n in range(40)]
    for line in rows:
        del line["split"]
    corpus = make(midi, tmp_path / "packed", csv=write_csv(tmp_path / "songs.csv", rows), workers=1)
    assert corpus.splits() == {"train": 32, "validation": 4, "test": 4}
    titles = [{record.title for record in corpus.pieces(split)} for split in corpus.splits()]
    assert not titles[0] & titles[1] | titles[0] & titles[2] | titles[1] & titles[2]


def test_a_corpus_of_one_file_is_trained_on_with_a_word_on_what_that_means(tmp_path, command):
    midi = melodies(tmp_path / "midi", {"a.mid": (0, 0, 0)}, notes=20)
    word = "nothing is held out: validation reads training music, and no figure is of new music"
    assert word in command("data", "prepare", midi, tmp_path / "packed").err
    pytest.importorskip("torch")
    options = ("--recipe", "tiny", "--steps", "1", "--device", "cpu", "--json")
    done = command("train", "--data", tmp_path / "packed", "--out", tmp_path / "run", *options)
    assert done.code == 0, done.err
    assert f"{tmp_path / 'packed'}: {word}" in done.err
    assert done.figures["best_validation_nats_per_token"] > 0


def test_a_train_copy_of_a_held_out_piece_is_left_out_and_reported(tmp_path):
    write_songs(tmp_path / "m", {"train/1.mid": 1, "train/1 again.mid": 1, "train/2.mid": 2, "train/2 again.mid": 2})
    write_songs(tmp_path / "m", {"test/1.mid": 1, "test/3.mid": 3, "validation/3.mid": 3, "train/4.mid": 4})
    corpus = make(tmp_path / "m", tmp_path / "packed", workers=1)
    assert sources(corpus, "train") == ["train/2 again.mid", "train/2.mid", "train/4.mid"]
    assert sources(corpus, "test") == ["test/1.mid", "test/3.mid"]
    assert sources(corpus, "validation") == ["validation/3.mid"]
    left_out = {tuple(group["files"]): group["left_out"] for group in corpus.report["duplicates"]}
    assert left_out == {
        ("test/1.mid", "train/1 again.mid", "train/1.mid"): ["train/1 again.mid", "train/1.mid"],
        ("test/3.mid", "validation/3.mid"): [],
        ("train/2 again.mid", "train/2.mid"): [],
    }


# ---- bad sources ----


def test_unusable_files_are_skipped_with_the_reason_and_the_others_packed(songs, tmp_path):
    (songs / "2018/a.midi").write_bytes(b"")
    (songs / "2019/d.midi").write_bytes((songs / "2019/d.midi").read_bytes()[:-5])
    (songs / "e.MID").unlink()
    write_midi(Piece.from_notes([]), songs / "silent.mid")
    table = songs / "songs.csv"
    table.write_text(table.read_text() + "x,y,train,1,silent.mid,1\n")
    corpus = make(songs, tmp_path / "packed", csv=table, workers=1)
    reasons = {entry["file"]: entry["reason"] for entry in corpus.report["skipped"]}
    assert list(reasons) == ["2018/a.midi", "2019/d.midi", "e.MID", "silent.mid"]
    for (name, reason), word in zip(reasons.items(), ("empty", "cut short", "No such file", "no notes"), strict=True):
        assert word in reason
        assert name not in reason
    assert corpus.splits() == {"validation": 1, "test": 1}


def test_what_was_mended_is_listed(tmp_path, command):
    files = {
        "a.mid": ONE_NOTE,
        "b.MID.GZ": gzip.compress(ONE_NOTE),
        "c.kar": ONE_NOTE + ONE_NOTE,
        "d.rmi": ONE_NOTE[:-1],
    }
    (tmp_path / "midi").mkdir()
    for file, data in files.items():
        (tmp_path / "midi" / file).write_bytes(data)
    corpus = make(tmp_path / "midi", tmp_path / "packed", workers=1)
    assert sorted(record.title for record in corpus.records) == ["a", "b", "c", "d"]
    mended = [
        {"file": "c.kar", "mended": {"bytes of another file behind this one, left out": len(ONE_NOTE)}},
        {"file": "d.rmi", "mended": {"End of Track cut off": 1}},
    ]
    assert corpus.report["mended"] == mended
    told = command("data", "prepare", tmp_path / "midi", tmp_path / "again")
    assert f"mended: {len(ONE_NOTE)} bytes of another file behind this one, left out in c.kar" in told.err + told.out
    assert command("data", "prepare", tmp_path / "midi", tmp_path / "third", "--json").figures["mended"] == mended


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "midi").mkdir()
    (tmp_path / "midi" / "a.mid").write_text("no")
    with pytest.raises(RitornelloError, match=r"none of 1 file.*a\.mid: not a MIDI file"):
        make(tmp_path / "midi", tmp_path / "packed", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["midi"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("canonical_composer,split\nx,train\n", "has no column canonical_title, midi_filename"),
        ("canonical_composer,canonical_title,midi_filename,split\n", "no rows"),
        ("canonical_composer,canonical_title,midi_filename,split\nx,y,e.MID,practice\n", "row 2 has split 'practice'"),
        ("canonical_composer,canonical_title,midi_filename,split\nx,y,e.MID\n", "row 2 has split None"),
        ("canonical_composer,canonical_title,split,midi_filename\nx,y,train,\n", "row 2 has no midi_filename"),
        ("", "has no column"),
    ],
)
def test_a_bad_csv_gets_one_line(songs, tmp_path, text, reason):
    (songs / "songs.csv").write_text(text)
    with one_line(reason):
        make(songs, tmp_path / "packed", csv=songs / "songs.csv")


def test_sources_that_are_none_get_one_line(songs, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for source, table, reason in (
        (tmp_path / "none", None, "is not a folder"),
        (songs / "e.MID", None, "is not a folder"),
        (tmp_path / "bare", None, "holds no .mid"),
        (songs, tmp_path / "none.csv", "cannot be read"),
        (songs, tmp_path / "binary.csv", "is not a CSV"),
    ):
        with one_line(reason):
            make(source, tmp_path / "packed", csv=table)


# ---- the destination ----


def test_an_existing_corpus_is_replaced_only_when_asked(corpus, songs, tmp_path):
    with pytest.raises(RitornelloError, match="exists already"):
        make(songs, tmp_path / "packed", workers=1)
    make(songs / "2018", tmp_path / "packed", workers=1, overwrite=True)
    assert len(Corpus.open(tmp_path / "packed").records) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "songs"]


def test_a_folder_that_is_no_corpus_is_never_overwritten(songs, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Clara")
    with pytest.raises(RitornelloError, match="is not a corpus"):
        make(songs, tmp_path / "letters", overwrite=True, workers=1)
    with pytest.raises(RitornelloError, match="is a file"):
        make(songs, tmp_path / "letters" / "dear.txt", overwrite=True, workers=1)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Clara"


def test_a_corpus_that_holds_its_source_is_not_overwritten(corpus, tmp_path):
    write_songs(tmp_path / "packed" / "midi", {"a.mid": 1})
    with pytest.raises(RitornelloError, match="holds the source"):
        make(tmp_path / "packed" / "midi", tmp_path / "packed", overwrite=True, workers=1)


def test_an_empty_folder_is_a_fine_destination(songs, tmp_path):
    (tmp_path / "packed").mkdir()
    assert len(make(songs, tmp_path / "packed", workers=1).records) == 5


@pytest.mark.parametrize("limit_bytes", [100, 900])  # stops the spool, and a later file
def test_a_full_disk_gets_one_line_and_leaves_nothing(songs, tmp_path, limit_bytes):
    refusal = f"{tmp_path / 'packed'}: cannot be written", "; the disk is full, make room"
    with full_disk(limit_bytes), one_line(*refusal):
        make(songs, tmp_path / "packed", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["songs"]


@pytest.mark.parametrize("step", ["write_shard", "write_corpus"])
def test_a_disk_that_fills_late_keeps_the_old_corpus(corpus, songs, tmp_path, monkeypatch, step):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()}
    monkeypatch.setattr(prepare, step, full)
    with pytest.raises(RitornelloError, match="disk is full"):
        make(songs, tmp_path / "packed", overwrite=True, workers=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "songs"]


def test_progress_tells_every_file(songs, tmp_path):
    told = []
    make(songs, tmp_path / "packed", workers=1, progress=lambda *news: told.append(news))
    assert [(done, total) for done, total, _ in told] == [(number, 5) for number in range(1, 6)]
    assert sorted(text for _, _, text in told) == ["2018/a.midi", "2018/b.midi", "2019/c.midi", "2019/d.midi", "e.MID"]


# ---- opening ----


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(with_checksum({**json.loads(path.read_text()), **changes})))


def test_a_corpus_of_another_vocabulary_or_format_must_be_prepared_again(corpus):
    edit_manifest(corpus.path, vocabulary="other")
    with pytest.raises(RitornelloError, match="another vocabulary; prepare the corpus again"):
        Corpus.open(corpus.path)
    edit_manifest(corpus.path, format_version=99)
    with pytest.raises(RitornelloError, match="corpus format 99"):
        Corpus.open(corpus.path)


def test_a_damaged_corpus_is_refused(corpus):
    shard, manifest = corpus.path / "train-000.npy", corpus.path / "manifest.json"
    whole, text, tokens = shard.read_bytes(), manifest.read_text(), corpus.shards[shard.name].tolist()
    for data in (whole[:-2], whole[:50], b"", b"PK\3\4"):
        shard.write_bytes(data)
        with pytest.raises(RitornelloError, match=r"train-000\.npy: is cut short"):
            Corpus.open(corpus.path)
    np.save(shard, np.zeros(7, np.uint16))
    with pytest.raises(RitornelloError, match="is not the shard"):
        Corpus.open(corpus.path)
    shard.unlink()
    with pytest.raises(RitornelloError, match="is missing"):
        Corpus.open(corpus.path)
    shard.write_bytes(whole)
    for damaged in (text[:-20], "[]", text.replace('"checks"', '"chicks"')):
        manifest.write_text(damaged)
        with pytest.raises(RitornelloError, match=r"manifest\.json: (is damaged|was changed)"):
            Corpus.open(corpus.path)
    for place in range(0, len(text), 3):
        data = text.encode()
        manifest.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with suppress(RitornelloError):  # where the checksum's own name was hit all that it vouches for is there
            assert corpus.manifest.items() <= Corpus.open(corpus.path).manifest.items()
    manifest.write_text(text)
    for name in ("pieces.npy", "names.jsonl"):
        path, data = corpus.path / name, (corpus.path / name).read_bytes()
        for place in range(0, len(data), 7):
            path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            with pytest.raises(RitornelloError, match="damaged"):
                Corpus.open(corpus.path)
        path.write_bytes(data)
    for place, bit in product(range(128), range(8)):  # where its header says that it ends, among others
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with suppress(RitornelloError):
            assert Corpus.open(corpus.path).shards[shard.name].tolist() == tokens
    shard.write_bytes(whole)
    (corpus.path / "report.json").write_text("{")
    with pytest.raises(RitornelloError, match=r"report\.json: is damaged"):
        Corpus.open(corpus.path).report["skipped"]


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RitornelloError, match="no corpus here"):
            Corpus.open(path)


def test_a_split_without_pieces_is_refused_naming_those_there_are(songs, tmp_path):
    corpus = make(songs / "2018", tmp_path / "packed", workers=1)
    for split in ("test", "practice"):
        with pytest.raises(RitornelloError, match=rf"split '{split}'; it has train \(1\), validation \(1\)"):
            corpus.pieces(split)


def test_reading_a_corpus_does_not_import_torch():
    code = "import sys, ritornello.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- real data ----


def test_real_performances_keep_their_splits_and_tokens(asap, tmp_path):
    with (asap / "asap-performances.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::70]
    for line in rows:
        line["midi_filename"] = str(asap / line["midi_filename"])
    corpus = make(asap, tmp_path / "packed", csv=write_csv(tmp_path / "some.csv", rows))
    assert not corpus.report["skipped"]
    found = {record.file: record for record in corpus.records}
    for line in rows:
        record = found[line["midi_filename"]]
        assert record.split == line["split"]
        assert record.seconds == pytest.approx(float(line["duration"]), rel=0.2)
        assert corpus.tokens(record).tolist() == expected_tokens(Path(line["midi_filename"]))


# ---- archives, parts, merging ----


def packed_tar(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.add(file, file.relative_to(folder).as_posix(), recursive=False)
    return path


@pytest.mark.parametrize("name", ["songs.tar", "songs.tar.gz"])
def test_an_archive_is_packed_as_the_folder_in_it(songs, tmp_path, name):
    expected = make(songs, tmp_path / "expected", workers=1, name="x")
    corpus = make(packed_tar(songs, tmp_path / name), tmp_path / "packed", workers=1, name="x")
    assert list(corpus.records) == list(expected.records)
    assert [corpus.tokens(r).tolist() for r in corpus.records] == [
        expected.tokens(r).tolist() for r in expected.records
    ]


def test_a_damaged_archive_gets_one_line_and_leaves_nothing(songs, tmp_path):
    data = packed_tar(songs, tmp_path / "songs.tar.gz").read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    for content in (data[: len(data) // 2], data[:200] + b"\0" * 50 + data[250:], b"no archive", b""):
        damaged.write_bytes(content)
        with one_line("damaged.tar.gz: "):
            make(damaged, tmp_path / "packed", workers=1)
        assert not (tmp_path / "packed").exists()
    with pytest.raises(RitornelloError, match=r"none\.tar: cannot be read"):
        make(tmp_path / "none.tar", tmp_path / "packed", workers=1)


def test_a_parquet_file_is_packed_row_by_row_and_a_row_without_bytes_is_skipped(songs, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = ["2018/a.midi", "2018/b.midi", "2019/c.midi", "e.MID"]
    columns = {
        "midi": [*((songs / name).read_bytes() for name in names[:3]), None],
        "canonical_composer": ["Clara", "Clara", "Robert", "Robert"],
        "split": ["train", "validation", "test", "train"],
        "midi_filename": names,
    }
    path = tmp_path / "songs.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    corpus = make(path, tmp_path / "packed", workers=1)
    assert [(r.file, r.composer, r.title, r.split) for r in corpus.records] == [
        ("2018/a.midi", "Clara", "a", "train"),
        ("2018/b.midi", "Clara", "b", "validation"),
        ("2019/c.midi", "Robert", "c", "test"),
    ]
    assert [corpus.tokens(r).tolist() for r in corpus.records] == [expected_tokens(songs / name) for name in names[:3]]
    assert corpus.report["skipped"] == [{"file": "e.MID", "reason": "holds nothing"}]
    data = path.read_bytes()
    for damaged, reason in ((data[:-9], "damaged"), (data[:60] + bytes(80) + data[140:], "damaged|cannot be read")):
        path.write_bytes(damaged)
        with pytest.raises(RitornelloError, match=rf"songs\.parquet: .*({reason})") as caught:
            make(path, tmp_path / "again", workers=1)
        assert "\n" not in str(caught.value)
    parquet.write_table(pyarrow.table({"text": ["no bytes"]}), path)
    with pytest.raises(RitornelloError, match="needs one column of bytes"):
        make(path, tmp_path / "again", workers=1)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "songs.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RitornelloError, match=r"pip install 'ritornello\[parquet\]'"):
        make(tmp_path / "songs.parquet", tmp_path / "packed", workers=1)


def comparable(corpus: Corpus) -> list[tuple[object, ...]]:
    columns = ("composer", "title", "split", "file", "notes", "seconds", "source")
    return [(*(getattr(r, name) for name in columns), corpus.tokens(r).tolist()) for r in corpus.records]


@pytest.mark.parametrize("tar", [True, False])
def test_parts_joined_are_the_corpus_made_at_once(tmp_path, command, tar):
    """Also with takes and copies in different parts, and a file that cannot be read."""
    names = {f"{n:02d}.mid": (n % 9, n // 9, 0.1 * (n // 9)) for n in range(20)}
    midi = melodies(tmp_path / "midi", names)
    shutil.copy(midi / "03.mid", midi / "99.mid")
    (midi / "10.mid").write_bytes(b"no")
    source = packed_tar(midi, tmp_path / "midi.tar") if tar else midi
    whole = make(source, tmp_path / "whole", seed=4, workers=1)
    for part in (1, 2, 3):
        done = command("data", "prepare", source, tmp_path / f"{part}", "--seed", 4, "--part", f"{part}/3")
        assert f"part {part} of 3, 7 pieces" in done.err or f"part {part} of 3, 6 pieces" in done.err
    folders = [tmp_path / name for name in ("2", "3", "1")]
    assert command("data", "merge", tmp_path / "joined", *folders).code == 0
    joined = Corpus.open(tmp_path / "joined")
    assert comparable(joined) == comparable(whole)
    assert joined.report == whole.report
    assert len(whole.report["takes"]) == 9
    assert whole.report["duplicates"]
    assert joined.manifest["seed"] == 4


def test_parts_that_do_not_make_a_whole_are_refused(songs, tmp_path):
    parts = [make(songs, tmp_path / f"{n}", part=(n, 3), workers=1).path for n in (1, 2, 3)]
    other = make(songs, tmp_path / "other", part=(2, 3), workers=1, seed=1).path
    whole = make(songs, tmp_path / "whole", workers=1).path
    for folders, reason in (
        (parts[:2], "part 3 of 3 is missing"),
        ([*parts, parts[0]], "4 folders for 3 parts"),
        ([*parts[:2], whole], "part 3 of 3 is missing"),
        ([parts[0], other, parts[2]], "has seed 1"),
    ):
        with pytest.raises(RitornelloError, match=reason):
            merge(folders, tmp_path / "joined")
    with pytest.raises(RitornelloError, match="have no weights"):
        merge(parts, tmp_path / "joined", weights=[1, 1, 1])
    with pytest.raises(RitornelloError, match=r"is part 1 of 3; join all parts"):
        Corpus.open(parts[0])
    with pytest.raises(RitornelloError, match="part is 4/3"):
        make(songs, tmp_path / "fourth", part=(4, 3))
    assert not (tmp_path / "joined").exists()


def test_corpora_become_sources_with_weights_and_no_copy_of_what_is_held_out_is_trained_on(tmp_path):
    write_songs(tmp_path / "a", {"train/1.mid": 1, "test/2.mid": 2})
    write_songs(tmp_path / "b", {"train/2.mid": 2, "train/3.mid": 3})
    write_songs(tmp_path / "c", {"train/4.mid": 4})
    a, b, c = (make(tmp_path / name, tmp_path / f"{name} packed", licence=name.upper(), workers=1) for name in "abc")
    both = merge([a.path, b.path], tmp_path / "both", weights=[1, 0.5])
    all_three = merge([both.path, c.path], tmp_path / "all", weights=[2, 3], name="all")
    assert [(r.file, r.split, r.source) for r in all_three.records] == [
        ("train/1.mid", "train", 0),
        ("train/3.mid", "train", 1),
        ("train/4.mid", "train", 2),
        ("test/2.mid", "test", 0),
    ]
    assert [all_three.tokens(r).tolist() for r in all_three.records] == [
        expected_tokens(tmp_path / name) for name in ("a/train/1.mid", "b/train/3.mid", "c/train/4.mid", "a/test/2.mid")
    ]
    assert all_three.sources == [
        {"name": "a packed", "licence": "A", "weight": 2.0},
        {"name": "b packed", "licence": "B", "weight": 1.0},
        {"name": "c packed", "licence": "C", "weight": 3.0},
    ]
    assert (all_three.name, all_three.licence) == ("all", "A; B; C")
    assert both.report["duplicates"][0]["left_out"] == ["train/2.mid"]
    for weights in ([1], [1, 0], [1, float("nan")], [1, 2000]):
        with pytest.raises(RitornelloError, match="2 corpora need as many weights"):
            merge([a.path, b.path], tmp_path / "none", weights=weights)


def test_a_name_that_is_not_utf_8_costs_nothing(songs, tmp_path):
    try:
        (songs / "e.MID").rename(os.fsdecode(os.fsencode(songs) + b"/\xe9tude.mid"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    corpus = make(songs, tmp_path / "packed", workers=1)
    assert "\ufffdtude.mid" in {record.file for record in corpus.records}
