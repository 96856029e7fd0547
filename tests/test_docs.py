"""What the pages say of configs is what there is."""

import itertools
import re
from pathlib import Path

import pytest

from vitjax import objectives

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem for path in (ROOT / "configs").glob("*.py")}
OBJECTIVES = {path.stem for path in Path(objectives.__file__).parent.glob("*.py")} - {"__init__"}
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def rows(page, heading):
    """The cells of the first table below a heading, without its first two lines."""
    lines = page.read_text().split(f"\n## {heading}\n", 1)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines[first:]))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def quoted(cells):
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_readme_lists_every_config_once_and_no_other():
    named = quoted(cells[2] for cells in rows(ROOT / "README.md", "Methods"))
    assert sorted(named) == sorted(CONFIGS)


def test_the_page_of_joint_embedding_lists_configs_that_there_are():
    named = quoted(sum((cells[2:] for cells in rows(ROOT / "docs" / "joint_embedding.md", "Which method")), []))
    assert set(named) <= CONFIGS and len(named) == len(set(named))
    assert {name for name in CONFIGS if name.endswith("_r50")} - {"clip_r50"} <= set(named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_and_page_that_a_page_names_is_there(page):
    text = page.read_text()
    # configs/X.py stands for any, and <name> for one to be written.
    configs = set(re.findall(r"configs/(\w+)\.py", text)) - {"X"}
    assert configs <= CONFIGS
    for link in re.findall(r"\]\(([\w./]+)\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_every_config_says_how_it_is_run_and_what_it_gave(config):
    text = (ROOT / "configs" / f"{config}.py").read_text().split('"""')[1]
    for name in ("Command:", "Hardware:", "Obtained:"):
        assert f"\n{name} " in text, name
    assert f"configs/{config}.py" in text


def test_every_objective_is_in_some_config():
    texts = "".join((ROOT / "configs" / f"{config}.py").read_text() for config in CONFIGS)
    assert {name for name in OBJECTIVES if f'c.objective.name = "{name}"' not in texts} == set()
