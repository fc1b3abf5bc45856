"""The house: packages and folders agree, rooms keep apart, and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import edgekit
from tests.conftest import ROOT

ROOMS = ("converters", "profiles", "runtimes")
MAY_IMPORT_ROOMS = {
    "automatic.py",
    "costs.py",
    "gathering.py",
    "ladder.py",
    "merging.py",
    "probing.py",
    "rounding.py",
    "trials.py",
    "bench.py",
    "bench_worker.py",
    "build.py",
    "choosing.py",
    "classify.py",
    "extraction.py",
    "model.py",
    "worker.py",
    "convert_adapter.py",
    "describe.py",
    "engines.py",
    "checkpoint_build.py",
    "checkpoint_formats.py",
    "demo.py",
    "golden.py",
    "handoff.py",
    "here.py",
    "importance.py",
    "importance_data.py",
    "importance_worker.py",
    "judging.py",
    "opening.py",
    "plan.py",
    "orders.py",
    "proof.py",
    "results.py",
    "running.py",
    "smallest.py",
    "subjects.py",
    "targets.py",
    "text.py",
    "unsound.py",
}
"""Core files, besides the command line, that join rooms: inside functions only."""
HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "llama_cpp",
    "numpy",
    "gguf",
    "tokenizers",
    "jinja2",
    "rich",
    "msgspec",
)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> dict[str, Path]:
    """Every package folder of the repository, by the name it is installed under."""
    found = {}
    for top in ("edgekit", *ROOMS):
        for init in sorted((ROOT / top).rglob("__init__.py")):
            parts = init.parent.relative_to(ROOT).parts
            if top == "edgekit" and len(parts) > 1 and parts[1] in ROOMS:
                continue  # the links
            name = ".".join(parts if top == "edgekit" else ("edgekit", *parts))
            found[name] = init.parent
    return found


def test_packages_are_the_folders() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(folders())


def test_package_dirs_and_links_lead_to_the_rooms() -> None:
    places = PROJECT["tool"]["setuptools"]["package-dir"]
    assert places == {"edgekit": "edgekit"} | {f"edgekit.{room}": room for room in ROOMS}
    for room in ROOMS:
        link = ROOT / "edgekit" / room
        assert link.is_symlink() and link.resolve() == ROOT / room


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether the import is on top level and real) of every import in a file."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node for block in ast.walk(tree) if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }  # fmt: skip
    top = set(tree.body)
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, node in top) for name in names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, node in top) for alias in node.names]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_the_core_and_never_each_other(room: str) -> None:
    others = tuple(f"edgekit.{other}" for other in ROOMS if other != room)
    for path in (ROOT / room).rglob("*.py"):
        for module, _ in imports(path):
            assert not module.startswith(others), f"{path} imports {module}"
            assert not module.startswith(("edgekit.cli", "edgekit.build", "edgekit.model")), (
                f"{path}: {module}"
            )


def test_the_core_imports_rooms_inside_functions_and_in_few_places() -> None:
    rooms = tuple(f"edgekit.{room}" for room in ROOMS)
    core = ROOT / "edgekit"
    folders = [core, *(core / name for name in ("cli", "evaluation", "pipeline"))]
    for path in (path for folder in folders for path in folder.glob("*.py")):
        for module, top in imports(path):
            if module.startswith(rooms):
                assert not top, f"{path} imports {module} on top"
                assert path.parent.name == "cli" or path.name in MAY_IMPORT_ROOMS, f"{path} imports {module}"


def test_the_public_names() -> None:
    assert sorted(edgekit.__all__) == edgekit.__all__
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    with pytest.raises(AttributeError):
        edgekit.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import edgekit",
        "import sys; sys.argv = ['edgekit', '--help']; import edgekit.cli; edgekit.cli.main()",
    ],
)
def test_heavy_packages_stay_out(code: str) -> None:
    check = f"import atexit, sys; atexit.register(lambda: print([m for m in {HEAVY!r} if m in sys.modules]))\n{code}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == edgekit.__version__
    assert f"## {edgekit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_constraint_pins_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    needed = {
        d.split(">=")[0].split("==")[0].lower().replace("_", "-") for d in PROJECT["project"]["dependencies"]
    }
    assert needed <= pinned
