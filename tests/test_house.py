"""The house stays in order: who may import whom, what needs torch, and what every file begins with.

Read from the sources, file by file, and tried in fresh processes.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import NamedTuple

import pytest

import ritornello

PACKAGE = Path(ritornello.__file__).parent
TESTS = Path(__file__).parent

# What each part may import of the others. Whatever a part may import stands above it: so there are no circles.
MAY_IMPORT = {
    "errors": "",
    "files": "errors",
    "hub": "errors",
    "notes": "errors",
    "midi": "errors files notes",
    "rendering": "errors files notes",
    "charts": "errors files",
    "metrics": "errors notes",
    "codec": "errors notes",
    "workers": "errors",
    "corpus": "errors files hub notes midi codec workers",
    "reports": "errors notes midi rendering charts metrics codec workers",
    "feed": "errors codec corpus workers",
    "horizons": "errors charts",
    "sampling": "errors codec",
    "checkpoint": "errors files hub codec",
    "models": "errors codec horizons checkpoint",
    "likelihood": "errors codec",
    "evaluation": "errors codec corpus feed horizons models likelihood",
    "recall": "errors charts codec corpus likelihood",
    "training": "errors files codec corpus feed horizons checkpoint models likelihood evaluation workers",
    "engines": "errors files codec horizons checkpoint models",
    "publishing": "errors files hub horizons checkpoint models engines",
    "take": "errors notes codec sampling engines",
    "performing": "errors notes codec sampling engines take",
    "duet": "errors notes codec take performing",
    "live": "errors duet",
    "studio": "errors files notes codec sampling engines take performing duet live",
    "bench": "errors charts codec horizons models likelihood training performing workers",
    "studies": "errors files notes midi charts metrics codec corpus reports horizons sampling checkpoint models "
    "evaluation recall training engines performing workers",
    "__init__": "errors notes midi codec horizons performing",
    "cli": "errors files hub notes midi rendering charts metrics codec corpus reports feed horizons sampling "
    "checkpoint models likelihood evaluation recall training bench studies studio engines publishing "
    "performing duet live __init__",
    "__main__": "cli",
}
# Against the direction, and therefore only inside a function.
ONLY_WHEN_CALLED = {("notes", "midi")}

# Everything third-party that the sources may name, and the only files that may.
MAY_NAME = {
    "numpy": ".*",
    "rich": r"cli/.*|training/display\.py",
    "typer": r"cli/.*",
    "PIL": r"rendering/(scene|png)\.py",
    "fluidsynth": r"rendering/wav\.py",
    "miniaudio": r"rendering/piano\.py",
    "starlette": r"studio/server\.py",
    "uvicorn": r"studio/server\.py",
    "matplotlib": r"charts\.py",
    "pyarrow": r"corpus/sources\.py",
    "torch": r"(checkpoint|likelihood|evaluation|recall)\.py|models/(?!__init__|config).*|training/.*|bench/.*|"
    r"studies/(run|measure)\.py|engines/framework\.py|cli/common\.py",
    "tomli": r"training/recipes\.py",
    "filelock": r"training/folder\.py",
    "safetensors": r"checkpoint\.py|engines/exported\.py|cli/common\.py",
    "onnxruntime": r"engines/runtime\.py",
    "onnx": r"engines/graph\.py",
    "rtmidi2": r"live\.py",
    "huggingface_hub": r"hub\.py",
}
# Never torch, not even in a function; the command line alone may load it there, when a verb needs it.
NEVER_TORCH = {
    "__init__",
    "errors",
    "files",
    "notes",
    "midi",
    "rendering",
    "charts",
    "metrics",
    "codec",
    "corpus",
    "reports",
    "feed",
    "horizons",
    "workers",
}
NEVER_TORCH |= {"sampling", "take", "performing", "duet", "live", "studio", "hub", "publishing"}
PARTS = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
WITHOUT_TORCH = [
    "ritornello",
    "ritornello.corpus.maestro",
    "ritornello.engines",
    "ritornello.studies.study",
    "ritornello.studies.table_one",
    "ritornello.engines.exported",
    "ritornello.models.config",
    "ritornello.training.recipes",
    "ritornello.cli",
    "ritornello.__main__",
]
WITHOUT_TORCH += [f"ritornello.{part}" for part in sorted(NEVER_TORCH & PARTS - {"__init__"})]


class Import(NamedTuple):
    """One imported module, as ``a.b.c``, and whether a function must be called for it."""

    module: str
    when_called: bool


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file but those for the type checker alone."""

    def visit(node: ast.AST, when_called: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, when_called) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: line {node.lineno} imports relatively; name the package"
            assert node.module
            if node.module == "ritornello":
                yield from (Import(f"ritornello.{alias.name}", when_called) for alias in node.names)
            else:
                yield Import(node.module, when_called)
        inside = when_called or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(ast.parse(path.read_text(encoding="utf-8")), False)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_part(module: str) -> str:
    """The part of the package that ``ritornello.a.b`` belongs to; names of the package itself are `__init__`'s."""
    name = [*module.split("."), "__init__"][1]
    return name if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file() else "__init__"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_file_imports_only_what_its_part_may(path):
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is new: give it its place in MAY_IMPORT"
    for module, when_called in imports_of(path):
        if module.split(".")[0] != "ritornello":
            continue
        other = imported_part(module)
        allowed = other == part or other in MAY_IMPORT[part].split()
        assert allowed or (when_called and (part, other) in ONLY_WHEN_CALLED), f"{part} imports {other}: {module}"


def test_the_table_has_no_circles_and_says_what_the_design_says():
    above: set[str] = set()
    for part, others in MAY_IMPORT.items():
        assert set(others.split()) <= above, f"{part} may import what stands below it"
        above.add(part)
    for part in ("models", "checkpoint", "likelihood", "engines"):
        assert not {"notes", "midi", "corpus", "feed"} & set(MAY_IMPORT[part].split()), "models see ids, never notes"
    for part in MAY_IMPORT.keys() - {"__init__", "__main__", "cli"}:
        assert "cli" not in MAY_IMPORT[part].split()


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_a_file_names_only_the_third_parties_it_may(path):
    for module, _ in imports_of(path):
        top = module.split(".")[0]
        if top == "ritornello" or top in sys.stdlib_module_names:
            continue
        assert top in MAY_NAME, f"{module} is neither in the standard library nor a dependency"
        assert re.fullmatch(MAY_NAME[top], name_of(path)), f"{name_of(path)} may not import {module}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_torch_stays_where_it_belongs(path):
    wanted = [found for found in imports_of(path) if found.module.split(".")[0] in ("torch", "safetensors")]
    if part_of(path) in NEVER_TORCH:
        assert wanted == []
    if part_of(path) in ("cli", "__main__"):
        assert [found.module for found in wanted if not found.when_called] == []


def test_what_is_free_of_torch_leaves_it_alone():
    """One process for all: the first module after which torch is there is the one to blame."""
    program = (
        "import sys, importlib\n"
        f"for name in {WITHOUT_TORCH}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
        "print('free')"
    )
    assert run(program) == "free\n"


def loaded_by(modules: str) -> set[str]:
    """What a fresh process loads for ``import modules``, beyond what every process of this installation has."""
    program = (
        "import json, sys\n"
        "before = set(sys.modules)\n"
        f"import {modules}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    return set(json.loads(run(program)))


def test_the_library_alone_loads_nothing_but_numpy():
    assert third_parties(loaded_by("ritornello, ritornello.performing")) == {"numpy"}


def test_training_from_a_packed_corpus_loads_only_what_is_promised():
    """numpy, torch, safetensors, rich, typer, and what these bring themselves; TensorBoard only once a run begins."""
    loaded = loaded_by("ritornello.training.loop, ritornello.corpus, ritornello.cli")
    assert {"torch", "ritornello.training.loop"} <= loaded
    promised = with_their_own({"numpy", "torch", "safetensors", "rich", "typer"})
    assert third_parties(loaded) <= promised | {"tqdm"}  # torch takes it where something else has brought it
    assert not [name for name in loaded if name.split(".")[0] in ("tensorboard", "PIL", "mido", "pretty_midi")]


def third_parties(modules: set[str]) -> set[str]:
    """The installed distributions that modules come from, ours left out."""
    owners = packages_distributions()
    tops = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"ritornello", "__main__"}
    return {normal(owner) for top in tops for owner in owners.get(top, [])}


def with_their_own(distributions: set[str]) -> set[str]:
    """Distributions and everything that they require, extras left out."""
    known, waiting = set(), set(distributions)
    while waiting:
        name = waiting.pop()
        known.add(name)
        try:
            required = requires(name) or []
        except ModuleNotFoundError:  # for another system or Python
            continue
        waiting |= {normal(re.split(r"[^\w.-]", line)[0]) for line in required if "extra ==" not in line} - known
    return known


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    "path", [*sources(), *sources(TESTS)], ids=lambda path: "/".join(path.parts[-3:]).removeprefix("src/")
)
def test_every_file_opens_with_what_it_is_for(path):
    opening = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert opening, "no docstring"
    assert opening.splitlines()[0].rstrip().endswith((".", ":", "?")), opening.splitlines()[0]
