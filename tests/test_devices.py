"""An accelerator that is there and unused is an error, not a slow run."""

import pytest

from vitjax import devices
from vitjax.errors import UserError


def machine(tmp_path, *files):
    for file in files:
        path = tmp_path / file.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_the_operating_system_shows_accelerators(tmp_path):
    assert devices.accelerator(tmp_path) is None
    assert devices.accelerator(machine(tmp_path, "/dev/accel0")) == "a TPU"
    assert devices.accelerator(machine(tmp_path, "/dev/nvidia0")) == "an NVIDIA GPU"


@pytest.mark.parametrize("present, remedy", [("an NVIDIA GPU", r"vitjax\[cuda\]"), ("a TPU", "libtpu")])
def test_an_unused_accelerator_is_an_error_with_its_cause(monkeypatch, present, remedy):
    monkeypatch.setattr(devices, "accelerator", lambda: present)
    with pytest.raises(UserError, match=f"{present}.*{remedy}.*--allow_cpu"):
        devices.check(allow_cpu=False, environment={})
    devices.check(allow_cpu=True, environment={})
    devices.check(allow_cpu=False, environment={"JAX_PLATFORMS": "cpu"})


def test_a_plain_cpu_machine_runs(monkeypatch):
    monkeypatch.setattr(devices, "accelerator", lambda: None)
    devices.check(allow_cpu=False, environment={})
