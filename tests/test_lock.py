"""One run at a time in a directory, from real processes."""

import subprocess
import sys

import pytest

from vitjax import lock
from vitjax.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from vitjax import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the directory's lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_told_who_is_there(holder, tmp_path):
    with pytest.raises(UserError, match=rf"workdir={tmp_path}.*process {holder.pid} on .* since"):
        with lock.hold(tmp_path):
            pytest.fail("two runs at once")


def test_a_killed_run_leaves_the_directory_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    with lock.hold(tmp_path):
        pass
    with lock.hold(tmp_path):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with lock.hold(tmp_path):
        pass
    assert "cannot be locked" in caplog.text
