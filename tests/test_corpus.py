"""Corpora: every file is packed or accounted for, splits do not leak, and no file or disk can spoil the rest."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from midi_bytes import ONE_NOTE
from songs import write_csv, write_songs, write_songs_with_csv

from ritornello.codec import decode, encode
from ritornello.corpus import Corpus, prepare, shards
from ritornello.corpus.prepare import prepare as make
from ritornello.corpus.sources import Source
from ritornello.corpus.splits import Tokenised, assign_splits
from ritornello.errors import RitornelloError
from ritornello.midi import read_midi, write_midi
from ritornello.notes import Piece


def expected_tokens(path: Path) -> list[int]:
    return encode(read_midi(path)).tolist()


def sources(corpus: Corpus, split: str) -> list[str]:
    return [record.source for record in corpus.pieces(split)]


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
        assert corpus.tokens(record).tolist() == expected_tokens(songs / record.source)
        assert (record.composer, record.title) == ("Clara Schumann", f"No. {record.source}")
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
    assert again.records == corpus.records


def test_a_full_shard_is_followed_by_the_next(songs, tmp_path, monkeypatch):
    longest = max(len(expected_tokens(path)) for path in songs.rglob("*.[mM][iI][dD]*"))
    monkeypatch.setattr(prepare, "SHARD_BYTES", 2 * (longest + 70))
    corpus = make(songs, tmp_path / "packed", csv=songs / "songs.csv", workers=1)
    files = [path.name for path in sorted((tmp_path / "packed").glob("*.npy"))]
    assert files == ["test-000.npy", "train-000.npy", "train-001.npy", "train-002.npy", "validation-000.npy"]
    for record in corpus.records:
        assert corpus.tokens(record).tolist() == expected_tokens(songs / record.source)


def test_the_same_source_and_seed_give_the_same_bytes(songs, tmp_path):
    for name, count in (("one", 1), ("two", 2)):
        make(songs, tmp_path / name, seed=3, name="x", workers=count)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_pieces_keep_their_order_whatever_order_they_are_finished_in(songs, tmp_path, monkeypatch):
    def backwards(function, items, **_):
        for index in reversed(range(len(items))):
            yield index, function(items[index])

    monkeypatch.setattr(prepare, "map_files", backwards)
    corpus = make(songs, tmp_path / "packed", csv=songs / "songs.csv")
    assert sources(corpus, "train") == ["2018/a.midi", "2019/d.midi", "e.MID"]
    for record in corpus.records:
        assert corpus.tokens(record).tolist() == expected_tokens(songs / record.source)


def test_names_come_from_the_folders_and_licence_files_are_mentioned(tmp_path):
    write_songs(tmp_path / "midi", {"Bach/Fugues/846.mid": 1, "Bach/Fugues/848.MIDI": 2, "lonely.mid": 3})
    (tmp_path / "midi" / "LICENSE.txt").write_text("free")
    (tmp_path / "midi" / "notes.txt").write_text("no music")
    corpus = make(tmp_path / "midi", tmp_path / "packed", workers=1)
    found = {record.source: (record.composer, record.title) for record in corpus.records}
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
    with pytest.raises(RitornelloError, match=r"stray.3\.mid lies outside the split folders train, test"):
        make(tmp_path / "midi", tmp_path / "packed", workers=1)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (10, (8, 1, 1)), (30, (24, 3, 3)), (1000, (800, 100, 100))],
)
def test_without_splits_a_tenth_each_is_held_out(count, sizes):
    found = split_names(count, seed=5)
    assert tuple(found.count(split) for split in shards.SPLITS) == sizes


def split_names(count: int, *, seed: int, digests: list[bytes] | None = None) -> list[str]:
    digests = digests or [str(number).encode() for number in range(count)]
    pieces = [
        Tokenised(Source("", f"{number:04d}", "", "", ""), number, 1, 1, 1.0, digest)
        for number, digest in enumerate(digests)
    ]
    return [piece.source.split for piece in assign_splits(pieces, seed)]


def test_the_seed_chooses_the_splits():
    assert split_names(50, seed=1) == split_names(50, seed=1)
    assert split_names(50, seed=1) != split_names(50, seed=2)


def test_chosen_splits_keep_equal_pieces_together():
    for seed in range(20):
        names = split_names(0, seed=seed, digests=[b"a", b"b", b"c", b"a", b"b", b"c", b"a"])
        assert names[0] == names[3] == names[6]
        assert names[1] == names[4]
        assert names[2] == names[5]
        assert set(names) == set(shards.SPLITS)


def test_a_train_copy_of_a_held_out_piece_is_left_out_and_reported(tmp_path):
    write_songs(tmp_path / "m", {"train/1.mid": 1, "train/1 again.mid": 1, "train/2.mid": 2, "train/2 again.mid": 2})
    write_songs(tmp_path / "m", {"test/1.mid": 1, "test/3.mid": 3, "validation/3.mid": 3, "train/4.mid": 4})
    corpus = make(tmp_path / "m", tmp_path / "packed", workers=1)
    assert sources(corpus, "train") == ["train/2 again.mid", "train/2.mid", "train/4.mid"]
    assert sources(corpus, "test") == ["test/1.mid", "test/3.mid"]
    assert sources(corpus, "validation") == ["validation/3.mid"]
    left_out = {tuple(group["files"]): group["left_out"] for group in corpus.manifest["duplicates"]}
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
    reasons = {entry["file"]: entry["reason"] for entry in corpus.manifest["skipped"]}
    assert list(reasons) == ["2018/a.midi", "2019/d.midi", "e.MID", "silent.mid"]
    for (name, reason), word in zip(reasons.items(), ("empty", "cut short", "No such file", "no notes"), strict=True):
        assert word in reason
        assert name not in reason
    assert corpus.splits() == {"validation": 1, "test": 1}


def test_what_was_mended_is_listed_and_older_corpora_have_no_such_list(tmp_path, command):
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
    assert corpus.manifest["mended"] == mended
    told = command("data", "prepare", tmp_path / "midi", tmp_path / "again")
    assert f"mended: {len(ONE_NOTE)} bytes of another file behind this one, left out in c.kar" in told.err + told.out
    assert command("data", "prepare", tmp_path / "midi", tmp_path / "third", "--json").figures["mended"] == mended
    manifest = json.loads((tmp_path / "packed" / "manifest.json").read_text())
    del manifest["mended"]
    (tmp_path / "packed" / "manifest.json").write_text(json.dumps(manifest))
    assert len(Corpus.open(tmp_path / "packed").records) == 4


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "midi").mkdir()
    (tmp_path / "midi" / "a.mid").write_text("no")
    with pytest.raises(RitornelloError, match=r"none of 1 files.*a\.mid: not a MIDI file"):
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
    with pytest.raises(RitornelloError, match=reason) as caught:
        make(songs, tmp_path / "packed", csv=songs / "songs.csv")
    assert "\n" not in str(caught.value)


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
        with pytest.raises(RitornelloError, match=reason) as caught:
            make(source, tmp_path / "packed", csv=table)
        assert "\n" not in str(caught.value)


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


LIMITED = """
import resource, signal, sys
from ritornello.corpus.prepare import prepare
from ritornello.errors import RitornelloError
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        prepare(sys.argv[1], sys.argv[2], workers=1)
    except RitornelloError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit_bytes", [100, 900])  # stops the spool, and a later file
def test_a_full_disk_gets_one_line_and_leaves_nothing(songs, tmp_path, limit_bytes):
    (tmp_path / "limited.py").write_text(LIMITED)
    command = [sys.executable, tmp_path / "limited.py", songs, tmp_path / "packed", str(limit_bytes)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith(f"{tmp_path / 'packed'}: cannot be written")
    assert output.endswith("; the disk is full, make room\n")
    assert output.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["limited.py", "songs"]


@pytest.mark.parametrize("step", ["write_shard", "write_manifest"])
def test_a_disk_that_fills_late_keeps_the_old_corpus(corpus, songs, tmp_path, monkeypatch, step):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()}
    monkeypatch.setattr(prepare, step, full)
    with pytest.raises(RitornelloError, match="disk is full"):
        make(songs, tmp_path / "packed", overwrite=True, workers=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "songs"]


def test_a_corpus_whose_successor_cannot_take_its_place_comes_back(corpus, songs, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in (tmp_path / "packed").iterdir()}
    replace = Path.replace

    def stubborn(self: Path, target: Path) -> Path:
        if self.name.endswith(".part") and self.is_dir():
            raise OSError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stubborn)
    with pytest.raises(RitornelloError, match="Permission denied"):
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
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_corpus_of_another_vocabulary_or_format_must_be_prepared_again(corpus):
    edit_manifest(corpus.path, vocabulary="other")
    with pytest.raises(RitornelloError, match="another vocabulary; prepare the corpus again"):
        Corpus.open(corpus.path)
    edit_manifest(corpus.path, format_version=99)
    with pytest.raises(RitornelloError, match="corpus format 99"):
        Corpus.open(corpus.path)


def test_a_damaged_corpus_is_refused(corpus):
    shard, manifest = corpus.path / "train-000.npy", corpus.path / "manifest.json"
    whole, text = shard.read_bytes(), manifest.read_text()
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
    for damaged in (text[:-20], "[]", text.replace('"notes"', '"tones"'), text.replace('"start": 0', '"start": 9999')):
        manifest.write_text(damaged)
        with pytest.raises(RitornelloError, match=r"manifest\.json: is damaged"):
            Corpus.open(corpus.path)


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
    assert not corpus.manifest["skipped"]
    found = {record.source: record for record in corpus.records}
    for line in rows:
        record = found[line["midi_filename"]]
        assert record.split == line["split"]
        assert record.seconds == pytest.approx(float(line["duration"]), rel=0.2)
        assert corpus.tokens(record).tolist() == expected_tokens(Path(line["midi_filename"]))
