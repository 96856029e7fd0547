"""What --help says of settings, and the list of commands."""

import subprocess
import sys
from pathlib import Path

import pytest

from vitjax import __main__ as commands
from vitjax import main, settings
from vitjax.config import base_config
from vitjax.errors import UserError

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")

SOURCE = '''
# Not about anything.

def get_config():
    c = base_config()
    c.rate = 1.0  # a share
    # Said above,
    # in two lines.
    c.seed = 0  # and behind
    c.data = d = ConfigDict(dict(a=1, b=2))  # of pictures
    d.mean = d.std = (
        0.5,
        0.5,
    )  # on two lines
    d.x, d.y = 1, 2  # both
    local = 3  # of nothing
    c.nothing = 1


def some_eval():
    settings = dict(
        k=20,  # neighbours
        name="knn",
    )
'''


def test_comments_are_found_by_the_setting_that_they_stand_beside():
    found = settings.comments(SOURCE, above=True)
    assert found == {
        "rate": "a share",
        "seed": "Said above, in two lines. and behind",
        "data": "of pictures",
        "data.mean": "on two lines",
        "data.std": "on two lines",
        "data.x": "both",
        "data.y": "both",
        "evals.*.k": "neighbours",
    }
    assert settings.comments(SOURCE)["seed"] == "and behind"


def test_every_setting_is_listed_with_its_default_and_what_is_said_of_it():
    text = settings.epilog(["--help"])
    for key, value in settings.leaves(base_config()):
        assert f"  --config.{key}={value}" in text
    line = next(line for line in text.splitlines() if "config.watchdog_s" in line)
    assert line.split(maxsplit=1) == [
        "--config.watchdog_s=1800.0", "the longest silence before a run that hangs is ended; 0 is never"
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) < 121


def test_the_settings_of_an_experiment_are_its_own():
    text = settings.epilog(["--config", QUICKSTART, "-h", "--config.seed=7", "--workdir=x"])
    assert f"settings of {QUICKSTART}" in text
    assert "--config.objective.mask_ratio=0.6" in text and "--config.seed=7 " in text
    every = next(line for line in text.splitlines() if "evals.linear.every_steps" in line)
    assert every.endswith("-1: never")
    with pytest.raises(UserError, match="there is no such file"):
        settings.epilog(["--config=nowhere.py", "--help"])


def test_help_shows_the_config_and_its_settings(capsys):
    with pytest.raises(SystemExit) as ended:
        main.main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "[--config FILE[:FORM]]" in shown and "--config.optim.b1=0.9" in shown and "--workdir DIR" in shown


def test_the_commands_are_listed_each_with_a_line():
    done = subprocess.run([sys.executable, "-m", "vitjax"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    files = {path.stem for path in (ROOT / "vitjax").glob("*.py") if "cli.run(main)" in path.read_text()}
    assert files == set(commands.COMMANDS)
    for name in files:
        (line,) = [line for line in done.stdout.splitlines() if f"vitjax.{name} " in line]
        assert line.endswith(".") and len(line) < 132
