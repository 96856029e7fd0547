"""The settings of a config as `--help` lists them: names, defaults, and what the source's comments say of each.

The comments stand beside the defaults, in `vitjax.config` and in the experiment's own file, and are read from there, so
that nothing is said twice.
"""

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from vitjax import cli
from vitjax import config as config_module

KEY_WIDTH, WIDTH = 42, 118
_EVALUATOR = re.compile(r"^evals\.[^.]+")


def epilog(argv: Sequence[str]) -> str:
    """What stands below the options: the settings of the config that the command line names, or of every config.

    Raises:
      UserError: the config file or an override on the command line is wrong.
    """
    flags = cli.config_flags(argv)
    files = [flag.split("=", 1)[1].split(":")[0] for flag in flags if flag.startswith("--config=")]
    meanings = comments(Path(config_module.__file__).read_text(), above=True)
    if files:
        config = cli.load_config(flags)
        meanings |= comments(Path(files[0]).read_text())
        title = f"settings of {files[0]}"
    else:
        config = cli.override(config_module.base_config(), flags)
        title = "settings of every experiment (those of one, its model and its method: --config=FILE --help)"
    return "\n".join([f"{title}, with their defaults:", *listed(config, meanings)])


def listed(config: ml_collections.ConfigDict, meanings: Mapping[str, str]) -> Iterator[str]:
    """A line for each setting, or more where much is said of it."""
    # Sections last: a ConfigDict's order is that of the alphabet.
    for key, value in sorted(leaves(config), key=lambda setting: "." in setting[0]):
        text = f"  --config.{key}={value}"
        meaning = textwrap.wrap(_meaning(key, meanings), WIDTH - KEY_WIDTH)
        if meaning and len(text) > KEY_WIDTH - 2:
            yield text
            text = ""
        first, *more = meaning or [""]
        yield f"{text:{KEY_WIDTH}}{first}".rstrip()
        yield from (" " * KEY_WIDTH + line for line in more)


def leaves(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('optim.b1', 0.9) and so on."""
    for name, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def comments(source: str, above: bool = False) -> dict[str, str]:
    """'optim.b1' -> 'AdamW': what the comments behind assignments say of settings and of sections.

    Args:
      source: of a file whose functions assign to a config, as `base_config` does.
      above: whether the lines of comment above an assignment are about its setting, too. In an experiment's file they
        are about the experiment.
    """
    behind, alone = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            place = alone if token.line.strip().startswith("#") else behind
            place[token.start[0]] = token.string.lstrip("#").strip()
    found: dict[str, str] = {}
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        sections: dict[str, str] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                keys = _keys(node, sections)
                said = _above(alone, node.lineno) if above else []
                said += [behind[line] for line in range(node.lineno, node.end_lineno + 1) if line in behind]
                found |= dict.fromkeys(keys, " ".join(said)) if said else {}
            elif function.name.endswith("_eval") and isinstance(node, ast.keyword) and node.value.end_lineno in behind:
                # The settings of an evaluator are the arguments of a dict.
                found.setdefault(f"evals.*.{node.arg}", behind[node.value.end_lineno])
    return found


def _keys(node: ast.Assign, sections: dict[str, str]) -> list[str]:
    """The settings that an assignment is about; variables that stand for a section are noted in `sections`."""
    targets = [x for target in node.targets for x in (target.elts if isinstance(target, ast.Tuple) else [target])]
    keys = [key for key in (_dotted(target, sections) for target in targets) if key]
    for target in targets:
        if isinstance(target, ast.Name):
            sections[target.id] = keys[0] if keys else ""
    return keys


def _dotted(target: ast.expr, sections: Mapping[str, str]) -> str:
    """'data.size_px' for the target `c.data.size_px`, or `d.size_px` where d is c.data; '' for other targets."""
    path: list[str] = []
    while isinstance(target, ast.Attribute):
        path, target = [target.attr, *path], target.value
    if not path or not isinstance(target, ast.Name) or target.id not in sections:
        return ""
    return ".".join([sections[target.id], *path]).lstrip(".")


def _above(alone: Mapping[int, str], line: int) -> list[str]:
    """The comment that ends on the line before `line`."""
    first = line
    while first - 1 in alone:
        first -= 1
    return [alone[number] for number in range(first, line)]


def _meaning(key: str, meanings: Mapping[str, str]) -> str:
    """What is said of a setting, or else of its section."""
    tried = (key, _EVALUATOR.sub("evals.*", key), key.rpartition(".")[0])
    return next((meanings[name] for name in tried if name in meanings), "")
