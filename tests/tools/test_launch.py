"""The launch scripts, as far as they can be tested without a cluster: what they would run."""

import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

import pytest

from vitjax.config import base_config

LAUNCH = Path(__file__).parents[2] / "tools" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
OVERRIDE = "--config.evals.knn.fields=('label',)"
TRAIN = ["-m", "vitjax.main", "--distributed", "--config=configs/x.py", "--workdir=gs://b/run", OVERRIDE]
SETTINGS = {"CONFIG": "configs/x.py", "WORKDIR": "gs://b/run", "TPU": "pod", "ZONE": "z", "IMAGE": "img"}


def shown(script, *arguments, **environment):
    """What a dry run prints."""
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1", **SETTINGS, **environment}
    command = ["bash", str(LAUNCH / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_a_page_of_sound_shell(script):
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    assert len(script.read_text().splitlines()) < 120
    assert os.access(script, os.X_OK)


def test_slurm_starts_a_process_for_each_gpu_and_requeues_a_preempted_run():
    first, _, last = shown("slurm.sh", OVERRIDE, SLURM_CPUS_PER_TASK="7", SLURM_JOB_ID="123").splitlines()
    command = shlex.split(first)
    assert command[:3] == ["srun", "--cpus-per-task=7", "--kill-on-bad-exit=0"]
    assert command[4:] == TRAIN
    assert shlex.split(last) == ["scontrol", "requeue", "123"]
    directives = [x.split()[1] for x in (LAUNCH / "slurm.sh").read_text().splitlines() if x.startswith("#SBATCH")]
    for wanted in ("--signal=TERM@60", "--requeue", "--open-mode=append", "--gpus-per-node=8", "--ntasks-per-node=8"):
        assert wanted in directives


@pytest.mark.parametrize("code", (0, 1, 2, 130, 75, 124, 137, 143))
def test_slurm_requeues_by_exit_code(tmp_path, code):
    requeued = code in (75, 124, 137, 143)
    for name, body in (("srun", f"exit {code}"), ("scontrol", f"echo requeued >> {tmp_path}/log")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    def ran(**more):
        command = ["bash", str(LAUNCH / "slurm.sh")]
        return subprocess.run(command, env={"PATH": path, **more}, capture_output=True, timeout=60).returncode

    assert ran() == (0 if requeued else code)
    assert (tmp_path / "log").exists() == requeued
    if requeued:
        assert ran(SLURM_RESTART_COUNT="100") == code
        assert (tmp_path / "log").read_text().count("requeued") == 1


def test_a_tpu_pod_starts_the_run_on_every_host_and_again_until_it_is_done(tmp_path):
    assert on_a_host(tmp_path, "[ -e again ] || { touch again; exit 143; }", "start", OVERRIDE) == 0
    assert (tmp_path / "vitjax" / "calls").read_text().splitlines() == TRAIN * 2


def test_a_tpu_pod_does_not_start_a_wrong_command_again(tmp_path):
    on_a_host(tmp_path, "exit 2", "start", OVERRIDE)
    assert (tmp_path / "vitjax" / "calls").read_text().splitlines() == TRAIN


def test_a_tpu_pod_that_is_stopped_saves_and_does_not_start_again(tmp_path):
    trainer = "trap 'sleep 0.2; touch saved; exit 143' TERM; touch ready; while true; do read -t 0.05 <> <(:); done"
    remote = threading.Thread(target=on_a_host, args=(tmp_path, trainer, "start"))
    remote.start()
    home = tmp_path / "vitjax"
    eventually((home / "ready").exists)
    assert on_a_host(tmp_path, None, "stop") == 0
    eventually((home / "saved").exists)
    remote.join(10)
    assert not remote.is_alive()
    assert (home / "calls").read_text().count("vitjax.main") == 1


def on_a_host(tmp_path, trainer, *arguments):
    """Runs here what a host of the pod gets, with a trainer of ours; returns when all of it has ended."""
    command = shlex.split(shown("tpu_pod.sh", *arguments))
    assert command[:8] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=z", "--worker=all"]
    if trainer is not None:
        python = tmp_path / "vitjax" / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >>calls\n{trainer}\n')
        python.chmod(0o755)
        (tmp_path / "sleep").write_text("#!/bin/bash\nexec /bin/sleep 0.1\n")
        (tmp_path / "sleep").chmod(0o755)
    remote = command[8].removeprefix("--command=")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", f"{remote}\nwait"], cwd=tmp_path, env=environment, timeout=60).returncode


def eventually(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_tpu_pod_is_installed_and_watched():
    assert shlex.split(shown("tpu_pod.sh", "install").splitlines()[1])[-1].endswith("pip install '.[tpu,gcs]'")
    assert "--worker=0" in shown("tpu_pod.sh", "log")


def test_gke_restarts_all_but_wrong_commands():
    yaml = pytest.importorskip("yaml")
    first, rest = shown("gke.sh", "apply", OVERRIDE).split("\n", 1)
    assert shlex.split(first) == ["kubectl", "apply", "-f", "-"]
    spec = yaml.safe_load(rest)["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 100
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"], job["backoffLimit"]) == (4, 4, "Indexed", 0)
    refused = job["podFailurePolicy"]["rules"][0]
    assert refused["action"] == "FailJob" and refused["onExitCodes"]["values"] == [2]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert refused["onExitCodes"]["containerName"] == container["name"] and container["image"] == "img"
    grace = "--config.grace_s=25"
    assert container["command"] == ["python", *TRAIN[:-1], grace, OVERRIDE]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] > 25


def test_scripts_know_the_defaults_of_the_config():
    config = base_config()
    assert f"GRACE_S:-{config.grace_s:g}" in (LAUNCH / "gke.sh").read_text()
    final = re.search(r'FINAL="(.*?)"', (LAUNCH / "slurm.sh").read_text())[1].split()
    assert str(config.preempted_exit_code) not in final
