"""The commands of vitjax, listed.

    python -m vitjax
"""

import ast
from pathlib import Path

# As one comes to them.
COMMANDS = ("main", "evaluate", "export", "convert", "inspect", "replay", "show", "check", "search", "sample")


def listing() -> str:
    """Each command with the first line of its file, which is not imported: that would take seconds."""
    lines = []
    for name in COMMANDS:
        doc = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{name}.py").read_text()))
        lines.append(f"  python -m vitjax.{name:10}{doc.splitlines()[0]}")
    return "\n".join(["vitjax: large-scale visual pretraining in JAX", "", *lines, "", "Each takes --help."])


if __name__ == "__main__":
    print(listing())
