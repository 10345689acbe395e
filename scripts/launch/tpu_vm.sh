#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU VM slice as one run; needs gcloud. From the repository's root:
#
#     export TPU=my-slice ZONE=us-central2-b
#     scripts/launch/tpu_vm.sh setup
#     scripts/launch/tpu_vm.sh train --config experiments/k400.py --workdir /mnt/shared/runs/k400
#     scripts/launch/tpu_vm.sh log
#     scripts/launch/tpu_vm.sh stop
#
# What follows `train` is for vswin_jax.main; --workdir must be a directory that all hosts share, such
# as a Filestore mount. The TPU's own metadata tells the hosts of each other, no address is needed.
#
# `stop`, and the shutdown of a preempted slice, send SIGTERM: the run saves and ends. To resume, give
# the same `train` line again, on this slice or, after `setup`, on another one of any size.
set -euo pipefail

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
place='$HOME/vswin_jax'
log='$HOME/vswin_jax.log'

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:-}" in
  setup)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU":vswin_jax.tar.gz --zone="$ZONE" --worker=all
    on_all_hosts "mkdir -p $place && tar -xzf vswin_jax.tar.gz -C $place &&
      python3 -m venv $place/.venv && $place/.venv/bin/pip install --quiet -e '$place[tpu]'"
    ;;
  train)
    shift
    # A process of its own session outlives the connection that starts it.
    on_all_hosts "cd $place && setsid nohup .venv/bin/python -m vswin_jax.main ${*@Q} \
      >> $log 2>&1 < /dev/null & sleep 1"
    ;;
  log)
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command="tail -f $log"
    ;;
  stop)
    # The brackets keep the pattern from matching the shell that looks for it.
    on_all_hosts "pkill -TERM -f '[v]swin_jax.main'"
    ;;
  *)
    echo "expected setup, train, log or stop, but '${1:-}' came: see the head of $0" >&2
    exit 2
    ;;
esac
