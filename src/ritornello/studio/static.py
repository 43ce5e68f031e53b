"""The studio as a folder of static files that plays in a browser, without Python: the page, and a model beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ritornello.engines.exported import WEB_MANIFEST, check_folder, web_files
from ritornello.files import whole_folder, write_whole

PAGE = Path(__file__).parent / "page"
MODEL = "model"  # the model's folder in an export, where ``page/engine/local.js`` looks for it
REMOTE, LOCAL = (f'<meta name="engine" content="{engine}">'.encode() for engine in ("remote", "local"))


def write_web(model: str, folder: Path) -> dict[str, Any]:
    """Writes the page with a bundled model or a checkpoint; gives what the page tells of the model.

    Raises:
        RitornelloError: for a model that cannot be exported, a folder that holds something else, or a full disk.
    """
    check_folder(folder, known_by=f"{MODEL}/{WEB_MANIFEST}")
    with whole_folder(folder) as new:
        of_model, about = web_files(model)
        files = {path.relative_to(PAGE).as_posix(): path.read_bytes() for path in PAGE.rglob("*") if path.is_file()}
        files["index.html"] = files["index.html"].replace(REMOTE, LOCAL)
        files |= {f"{MODEL}/{name}": content for name, content in of_model.items()}
        for name, content in files.items():
            write_whole(new / name, content)
    return {"files": {name: len(content) for name, content in files.items()}, **about}
