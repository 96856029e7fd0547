import os
import zipfile

import convert_torch
import numpy as np
import pytest
import reference_libraries
from safetensors.numpy import load_file

from vitjax.errors import UserError

pytestmark = pytest.mark.parity


@pytest.fixture
def torch():
    return reference_libraries.torch()


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_tensors_are_the_same_under_their_names(torch, tmp_path):
    weights = {"a.weight": torch.arange(6.0).reshape(2, 3).t(), "count": torch.tensor(3)}
    shared = {"b": weights["a.weight"], **weights}
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": x for k, x in shared.items()}}, tmp_path / "w.pt")
    said = convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert sorted(found) == ["a.weight", "b", "count"] and said.startswith("3 tensors")
    np.testing.assert_array_equal(found["b"], [[0, 3], [1, 4], [2, 5]])
    assert found["count"] == 3 and found["count"].dtype == np.int64


def scripted(torch, path, setstate=False):
    """A TorchScript archive as OpenAI published CLIP: weights in float16, and numbers beside them."""

    class Projection(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 3).half()
            self.register_buffer("context_length", torch.tensor(77))

        def forward(self, x):
            return self.linear(x)

    class WithState(Projection):
        @torch.jit.export
        def __getstate__(self):
            return self.linear.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            print("ran")
            self.training = state[1]

    module = torch.jit.script(WithState() if setstate else Projection())
    module.save(str(path))
    return module


def test_a_torchscript_archive_gives_its_weights(torch, tmp_path):
    module = scripted(torch, tmp_path / "w.pt")
    assert convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.safetensors").startswith("3 tensors")
    found, wanted = load_file(tmp_path / "w.safetensors"), module.state_dict()
    assert sorted(found) == sorted(wanted) == ["context_length", "linear.bias", "linear.weight"]
    for name, x in wanted.items():
        np.testing.assert_array_equal(found[name], x.numpy())
        assert found[name].dtype == x.numpy().dtype


def test_a_torchscript_archive_whose_loading_runs_code_is_refused(torch, tmp_path):
    scripted(torch, tmp_path / "w.pt", setstate=True)
    with pytest.raises(UserError, match="code of its own for loading"):
        convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]


def test_a_torchscript_archive_that_is_damaged_is_refused(torch, tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("w/constants.pkl", b"")
    with pytest.raises(UserError, match="torch opens no TorchScript archive in it .*; fetch it again"):
        convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.safetensors")


def test_the_key_says_where_the_weights_are(torch, capsys):
    loaded = {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.ones(1)}, "epoch": 3}
    assert convert_torch.state_dict(loaded, "")["a"] == 0
    assert convert_torch.state_dict(loaded, "ema")["a"] == 1
    with pytest.raises(SystemExit):
        convert_torch.state_dict(loaded, "teacher")
    assert "--key=teacher is not in it; it has model, ema, epoch" in capsys.readouterr().err


def test_a_file_without_tensors_is_refused(capsys):
    with pytest.raises(SystemExit):
        convert_torch.state_dict({"epoch": 3}, "")
    assert "no tensors are where weights usually are; say with --key where" in capsys.readouterr().err


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(torch, tmp_path):
    torch.save({"state_dict": Evil(str(tmp_path / "ran"))}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="torch opens no weights alone in it"):
        convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "w.pt").touch()
    with pytest.raises(UserError, match="is there already"):
        convert_torch.convert(tmp_path / "w.pt", tmp_path / "w.pt")
    with pytest.raises(UserError, match="is no file"):
        convert_torch.convert(tmp_path / "none.pt", tmp_path / "w.safetensors")
