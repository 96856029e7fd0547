#!/bin/bash
# Trains on all hosts of a Cloud TPU slice that exists already.
#
#   TPU=my-pod ZONE=europe-west4-b bash tools/launch/tpu_pod.sh install      once: the checkout, jax for TPUs
#   TPU=... ZONE=... bash tools/launch/tpu_pod.sh start [--config.key=value ...]
#   TPU=... ZONE=... bash tools/launch/tpu_pod.sh log | stop                 stop saves first
#   DRY_RUN=1 ...                                                            prints the commands
#
# The run outlives this connection. A run that fails on a host ends on all of them within a minute, and every
# host starts it again, until it is done or the command itself is wrong (exit code 2). A slice that was
# preempted is gone: make it again, then `install` and `start` again, with --workdir in a bucket.

set -eu
TPU=${TPU:?the name of the TPU}
ZONE=${ZONE:?its zone}
PROJECT=${PROJECT:-}
REPOSITORY=${REPOSITORY:-} # `install` clones from here; without it this checkout is copied
CONFIG=${CONFIG:-configs/mae_vitb.py}
WORKDIR=${WORKDIR:-gs://BUCKET/runs/mae}
EXTRAS=${EXTRAS:-tpu,gcs}

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

where=(--zone="$ZONE")
[[ -z $PROJECT ]] || where+=(--project="$PROJECT")

# Runs a command line in ~/vitjax on all hosts, or on the one that $2 names.
on_hosts() {
    run gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --worker="${2:-all}" --command="$1"
}

action=${1:-}
[[ $# == 0 ]] || shift
case $action in
install)
    if [[ -n $REPOSITORY ]]; then
        on_hosts "git clone $(printf %q "$REPOSITORY") vitjax"
    else
        run gcloud compute tpus tpu-vm scp --recurse . "$TPU:vitjax" "${where[@]}" --worker=all
    fi
    on_hosts "cd vitjax && python3 -m venv .venv && .venv/bin/pip install '.[$EXTRAS]'"
    ;;
start)
    train=(.venv/bin/python -m vitjax.main --distributed --config="$CONFIG" --workdir="$WORKDIR" "$@")
    printf -v train '%q ' "${train[@]}"
    again="echo \$\$ >run.pid; until $train; do [ \$? != 2 ] || exit 2; sleep 10; done"
    on_hosts "cd vitjax && setsid nohup bash -c $(printf %q "$again") >run.log 2>&1 </dev/null &"
    ;;
log)
    on_hosts "tail -n 100 -f vitjax/run.log" 0
    ;;
stop)
    # The whole group: the loop ends at once, the trainer saves and ends.
    on_hosts "kill -TERM -- -\$(cat vitjax/run.pid)"
    ;;
*)
    sed -n '2,7s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
