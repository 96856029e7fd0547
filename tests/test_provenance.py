"""The history of a run."""

import json
import subprocess

import jax

from vitjax import provenance


def test_each_start_is_one_line_with_command_versions_and_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.sys, "orig_argv", ["python", "-m", "vitjax.main", "--workdir=a b"])
    provenance.record(tmp_path, 0, {})
    provenance.record(tmp_path, 40, {"config.optim.base_lr": "0.1 -> 0.2"})
    first, second = map(json.loads, (tmp_path / provenance.FILE).read_text().splitlines())
    assert (first["first_step"], second["first_step"]) == (0, 40)
    assert second["changed"] == {"config.optim.base_lr": "0.1 -> 0.2"}
    assert first["versions"]["jax"] == jax.__version__ and first["command"] == "python -m vitjax.main '--workdir=a b'"


def test_commit_says_whether_files_are_modified(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "module.py"))
    monkeypatch.chdir("/")
    assert provenance.commit() is None
    git("init")
    (tmp_path / "module.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    clean = provenance.commit()
    assert len(clean["commit"]) == 40 and clean["modified"] is False
    (tmp_path / "module.py").write_text("2")
    assert provenance.commit() == {**clean, "modified": True}
