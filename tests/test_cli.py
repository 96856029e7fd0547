"""The command line: what a user mistypes, and how a command ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitjax import cli
from vitjax.errors import RunError, UserError

QUICKSTART = str(Path(__file__).parents[1] / "configs" / "quickstart.py")


@pytest.mark.parametrize("flags", [[f"--config={QUICKSTART}:tiny"], ["--config", f"{QUICKSTART}:tiny"]])
def test_a_config_is_given_with_or_without_an_equals_sign(flags):
    options = cli.parser("vitjax.main", "")
    _, rest = cli.parse(options, [*flags, "--config.seed=3"])
    config = cli.load_config(rest)
    assert (config.total_steps, config.seed) == (2, 3)


def test_a_mistyped_form_is_one_line():
    with pytest.raises(UserError, match="no form 'tinny'.*:tiny") as caught:
        cli.load_config([f"--config={QUICKSTART}:tinny"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body, code, shown",
    [
        ("raise UserError('config.x=1 is wrong')", 2, "error: config.x=1 is wrong"),
        ("raise RunError('no')", 1, "error: no"),
        ("raise OSError(28, 'No space left on device', 'metrics.jsonl')", 1, "metrics.jsonl: No space left"),
        ("raise JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')", 1, "config.batch_size"),
        ("return 143", 143, ""),
    ],
)
def test_what_a_user_can_mend_ends_without_a_traceback(body, code, shown):
    program = f"""
from vitjax import cli
from vitjax.errors import RunError, UserError
class JaxRuntimeError(RuntimeError): pass
def main(argv):
    {body}
cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and shown in done.stderr and "Traceback" not in done.stderr


def test_a_thread_that_hangs_does_not_keep_the_process():
    program = """
import threading, time
from vitjax import cli
cli.LEAVE_S = 1.0
threading.Thread(target=time.sleep, args=(3600,)).start()
cli.run(lambda argv: 7)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, env=dict(os.environ)).returncode == 7


def test_a_process_that_was_lost_has_a_code_of_its_own():
    from vitjax.multihost import ProcessLost

    assert issubclass(ProcessLost, RunError) and ProcessLost.exit_code == 75
