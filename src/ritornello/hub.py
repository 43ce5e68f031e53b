"""Models and corpora on the Hugging Face Hub: ``hf://owner/name[@revision]`` wherever one is named.

What is fetched lies in the hub's own cache, so a second use needs no network. Nothing that is fetched is run: a model
is JSON, safetensors and ONNX graphs, a corpus JSON and NumPy arrays without pickles.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ritornello.errors import RitornelloError

Kind = Literal["model", "dataset"]

NAME = re.compile(r"hf:/+(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?")  # a Path has one slash of two
UNUSED = ["*.bin", "*.pt", "*.pth", "*.pkl", "*.py", "onnx/*"]  # what no verb of ours reads


def is_on_hub(name: str | Path) -> bool:
    """Whether a name is the hub's."""
    return Path(name).as_posix().startswith("hf:/")


def local(name: str | Path, kind: Kind) -> Path:
    """The folder of what is named: itself, or a copy of what ``hf://owner/name[@revision]`` is on the hub.

    Raises:
        RitornelloError: for a name that is none, where it is not there or not for everybody, without `huggingface_hub`,
            or without a network where there is no copy.
    """
    if not is_on_hub(name):
        return Path(name)
    found = NAME.fullmatch(Path(name).as_posix())
    if found is None:
        raise RitornelloError(f"{name}: no name on the hub; write hf://owner/name or hf://owner/name@revision")
    repository, revision = found["repository"], found["revision"]
    hub = _library(f"hf://{repository}")
    with _telling(f"hf://{repository}", revision):
        return Path(hub.snapshot_download(repository, repo_type=kind, revision=revision, ignore_patterns=UNUSED))


def remedy(folder: Path) -> str:
    """What mends a damaged model in a folder: to fetch it again, where the folder is of the hub's cache."""
    if folder.parent.name != "snapshots":
        return "copy the checkpoint again"
    return f"delete {folder.parents[1]}, and it is fetched again"


def upload(folder: Path, repository: str, *, private: bool) -> str:
    """Puts all of a folder into a model repository, made if need be, in one commit; gives its address.

    Large files go first, in parts where they are very large, and what arrived of them is not sent again by another try.

    Raises:
        RitornelloError: for a name that is none, without `huggingface_hub`, a network, or the right to write there.
    """
    if NAME.fullmatch(f"hf://{repository}") is None or "@" in repository:
        raise RitornelloError(f"{repository}: no name of a repository; write owner/name")
    hub = _library(repository)
    with _telling(repository, sending=True):
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="By ritornello push")
        return str(done.commit_url)


def _library(name: str) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise RitornelloError(
            f"{name}: needs the package huggingface_hub; install it with: pip install 'ritornello[hub]'"
        ) from None
    huggingface_hub.logging.set_verbosity_error()  # what it warns of, it raises in the end
    if not sys.stderr.isatty() or os.environ.get("RITORNELLO_QUIET"):
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


@contextmanager
def _telling(name: str, revision: str | None = None, *, sending: bool = False) -> Iterator[None]:
    """What the hub's library raises, in one line."""
    from huggingface_hub import errors

    its_own = (RuntimeError, ValueError) if sending else ()  # what it raises where a large file is not sent
    try:
        yield
    except errors.RevisionNotFoundError:
        raise RitornelloError(f"{name}: has no revision {revision!r}; leave it out, or name another") from None
    except errors.HFValidationError as error:
        raise RitornelloError(f"{name}: no name on the hub ({' '.join(str(error).split())}); check it") from None
    except (OSError, errors.HTTPError, *its_own) as error:
        answer = next((e for e in (error, error.__cause__) if isinstance(e, errors.HfHubHTTPError)), None)
        if answer is None:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            if sending:
                raise RitornelloError(
                    f"{name}: not sent ({reason}); try again, and what has arrived is not sent twice"
                ) from None
            raise RitornelloError(f"{name}: not reached, and no whole copy is here ({reason}); try again") from None
        code = answer.response.status_code
        if code in (401, 403, 404):
            raise RitornelloError(
                f"{name}: is not there, or not yours (HTTP {code}); check the name, or log in with 'hf auth login'"
            ) from None
        raise RitornelloError(f"{name}: the hub answered HTTP {code}; try again later") from None
