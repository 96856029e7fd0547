#!/bin/bash
# Trains on a TPU slice of a GKE cluster, as a JobSet (https://jobset.sigs.k8s.io, 0.6 or later).
#
#   IMAGE=... WORKDIR=gs://BUCKET/runs/mae bash tools/launch/gke.sh apply [--config.key=value ...]
#   bash tools/launch/gke.sh print [...]         the JobSet alone; DRY_RUN=1 prints the command with it
#   bash tools/launch/gke.sh log | delete        delete lets the run save first
#
# IMAGE holds vitjax with the extras tpu and gcs, in its working directory the configs. Whenever a pod ends with
# another code than 0 (143 after a preemption, 1 after the loss of another) all start again and go on from the
# newest checkpoint; only a wrong command (code 2) ends the set.

set -eu
NAME=${NAME:-vitjax}
IMAGE=${IMAGE:-IMAGE}
WORKDIR=${WORKDIR:-gs://BUCKET/runs/$NAME}
CONFIG=${CONFIG:-configs/mae_vitb.py}
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}
TOPOLOGY=${TOPOLOGY:-4x4}
HOSTS=${HOSTS:-4}
CHIPS_PER_HOST=${CHIPS_PER_HOST:-4}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} # of Kubernetes; it must be allowed to write WORKDIR
MAX_RESTARTS=${MAX_RESTARTS:-100}
GRACE_S=${GRACE_S:-25} # config.grace_s; the pod gets 15 s more to end

action=${1:-}
[[ $# == 0 ]] || shift

# One argument a line, quoted for YAML.
arguments() {
    local argument
    for argument in "$@"; do
        argument=${argument//\\/\\\\}
        printf '                - "%s"\n' "${argument//\"/\\\"}"
    done
}

jobset() {
    cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
    - action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: 1
    template:
      spec:
        parallelism: $HOSTS
        completions: $HOSTS
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [2]}
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: $((GRACE_S + 15))
            serviceAccountName: $SERVICE_ACCOUNT
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: train
              image: $IMAGE
              ports: [{containerPort: 8471}, {containerPort: 8482}]
              resources: {limits: {google.com/tpu: $CHIPS_PER_HOST}}
              command:
$(arguments python -m vitjax.main --distributed --config="$CONFIG" --workdir="$WORKDIR" --config.grace_s="$GRACE_S" "$@")
YAML
}

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@"
        echo
        [[ ! " $* " == *" -f - "* ]] || cat
    else
        "$@"
    fi
}

case $action in
print) jobset "$@" ;;
apply) jobset "$@" | run kubectl apply -f - ;;
log) run kubectl logs -f --selector="jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0" ;;
delete) run kubectl delete jobset "$NAME" ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
