"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ritornello.errors import RitornelloError
from ritornello.files import write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_whole(path, "ä")
    write_whole(path, "ö")
    assert path.read_text(encoding="utf-8") == "ö"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("where", ["file/below", "folder"])
def test_a_place_that_cannot_be_written_is_one_error_and_stays_as_it_was(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RitornelloError, match="cannot be written"):
        write_whole(tmp_path / where, "text")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"
