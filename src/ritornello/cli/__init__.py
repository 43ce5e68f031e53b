"""The command line: each verb reads its arguments, calls one function, and shows what came of it.

The verbs register themselves with ``common.app`` when their module is imported, and are listed in that order. None of
them imports torch before it is called.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from typing import Any

import typer

from ritornello.cli.common import app, console, output
from ritornello.errors import RitornelloError

__all__ = ["app", "console", "main", "output"]

for _verbs in ("playing", "duet", "studio", "corpora", "learning", "bench", "studies", "metrics", "exporting"):
    import_module(f"{__name__}.{_verbs}")

# A mistake in the arguments, of click or of the copy of it that newer typers carry.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """The command ``ritornello``: errors that are the user's to mend are one line and exit code 2."""
    if "GOMP_SPINCOUNT" not in os.environ:  # threads that spin while they wait keep other work from the processor
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # which torch's OpenMP reads when it is loaded
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except RitornelloError as error:
        message = str(error)
    except UsageError as error:
        command = f"'{error.ctx.command_path} --help'" if error.ctx else "--help"
        message = f"{' '.join(error.format_message().split()).rstrip('.')}; see {command}"
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"{error.filename or 'the disk'}: {error.strerror}; give another place, or mend this one"
    except typer.Abort:
        sys.exit(130)
    console.quiet = False
    console.print(f"error: {message}", style="red")
    sys.exit(2)
