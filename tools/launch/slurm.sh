#!/bin/bash
# Trains on a Slurm cluster, one process a GPU; goes on by itself after a preemption or the end of its time.
#
#   sbatch tools/launch/slurm.sh [--config.key=value ...]     (from the checkout; settings are below)
#   DRY_RUN=1 bash tools/launch/slurm.sh                      (prints the commands)
#
# --signal reaches the processes (not this script) 60 s before the time is up; they save and exit with 143
# (config.preempted_exit_code), and the job goes back to the queue. After a preemption or the loss of a node
# Slurm requeues it itself.
#SBATCH --job-name=vitjax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
PYTHON=${PYTHON:-.venv/bin/python}
CONFIG=${CONFIG:-configs/mae_vitb.py}
WORKDIR=${WORKDIR:-runs/mae} # on a file system that all nodes see, or gs://, s3://
MAX_RESTARTS=${MAX_RESTARTS:-100}
FINAL=" 0 1 2 130 " # done, cannot go on, a wrong setting, Ctrl-C; anything else (preempted, killed, hung) starts again

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# Since Slurm 22.05 a step does not inherit --cpus-per-task. A process that ends must not kill those that still
# save: when one is lost the others end by themselves, within a minute.
run srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-12}" --kill-on-bad-exit=0 \
    "$PYTHON" -m vitjax.main --distributed --config="$CONFIG" --workdir="$WORKDIR" "$@"
code=$?

if [[ -n ${DRY_RUN:-} ]]; then
    echo "# on any exit code but$FINAL:"
    code=143
fi
if [[ $FINAL != *" $code "* ]]; then
    if ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
        echo "not requeued: MAX_RESTARTS=$MAX_RESTARTS is reached"
        exit "$code"
    fi
    run scontrol requeue "${SLURM_JOB_ID:-JOB}"
    exit 0
fi
exit "$code"
