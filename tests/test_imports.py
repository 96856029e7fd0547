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
    "models": ("losses", "objectives", "objective", "data", "evals", "loop", "optim", "augment", "experiment"),
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


def test_the_loader_starts_no_jax_and_training_no_other_framework():
    code = "import sys, pkgutil, importlib, vitjax.data as d\n"
    code += "[importlib.import_module('vitjax.data.' + m.name) for m in pkgutil.iter_modules(d.__path__)]\n"
    code += "assert 'jax' not in sys.modules, 'data imports jax'\n"
    code += "import vitjax.main\n"
    code += "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_nothing_unpickles_or_evaluates():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file
            if isinstance(node, ast.Import):
                assert not {a.name for a in node.names} & {"pickle", "dill", "cloudpickle"}, file
