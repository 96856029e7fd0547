"""The directions in which imports run, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vitjax

PACKAGE = Path(vitjax.__file__).parent

# What a room may not import, directly. Data flows source -> augment -> objective -> metrics, never back.
FORBIDDEN = {
    "objectives": ("data", "evals", "loop", "objectives", "experiment", "main", "hooks", "checkpoint"),
    "models": (
        "losses",
        "objectives",
        "objective",
        "data",
        "evals",
        "loop",
        "optim",
        "augment",
        "experiment",
    ),
    "losses": ("models", "objectives", "objective", "data", "evals", "loop", "optim"),
    "data": ("models", "losses", "objectives", "objective", "evals", "loop", "augment", "sharding", "trees"),
    "interop": ("objectives", "objective", "data", "evals", "loop", "optim"),
    "evals": ("objectives", "loop", "main", "experiment", "hooks"),
    "loop.py": ("objectives", "models", "losses", "data", "evals", "writers", "checkpoint", "hooks"),
    "objective.py": ("objectives", "models", "losses", "data", "evals", "loop", "augment"),
}
# Objectives may not import each other, but their own package's doors are their own.
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The rooms of vitjax that a file imports: 'data', 'loop', ..."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("vitjax.")}
    return rooms


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_run_one_way(room):
    files = [f for f in FILES if f.relative_to(PACKAGE).parts[0] == room]
    assert files
    for file in files:
        if file.name != "__init__.py":
            wrong = imported(file) & set(FORBIDDEN[room])
            assert not wrong, f"{file.relative_to(PACKAGE)} imports {wrong}"


def test_no_file_of_the_loader_imports_jax():
    """A worker process that imports jax may take an accelerator's memory (grain itself loads it, unused)."""
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] == "data":
            tree = ast.walk(ast.parse(file.read_text()))
            imports = [n for n in tree if isinstance(n, ast.Import | ast.ImportFrom)]
            names = [getattr(n, "module", None) or n.names[0].name for n in imports]
            assert not [name for name in names if name.split(".")[0] in ("jax", "flax", "optax")], file


def test_training_loads_no_other_framework():
    code = "import sys, vitjax.main; assert not {'torch', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_nothing_unpickles_or_evaluates():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file
            if isinstance(node, ast.Import):
                assert not {a.name for a in node.names} & {"pickle", "dill", "cloudpickle"}, file
