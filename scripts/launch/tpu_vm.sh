#!/usr/bin/env bash
# Trains on all hosts of a Cloud TPU VM slice as one run; needs gcloud. From the repository's root:
#
#     export TPU=my-slice ZONE=us-central2-b
#     scripts/launch/tpu_vm.sh setup
#     scripts/launch/tpu_vm.sh train --config experiments/k400.py --workdir /mnt/shared/runs/k400
#     scripts/launch/tpu_vm.sh log
#     scripts/launch/tpu_vm.sh stop
#
# The arguments after `train` are for vswin_jax.main; --workdir must be a directory that all hosts
# share, such as a Filestore mount. The hosts find each other by the metadata of the TPU.
#
# `stop`, and the shutdown of a preempted slice, send SIGTERM: the run saves a checkpoint and ends.
# To resume, give the same `train` line again, on this slice or, after `setup`, on another one of
# any size.
set -euo pipefail

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
repo='$HOME/vswin_jax'
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
    on_all_hosts "mkdir -p $repo && tar -xzf vswin_jax.tar.gz -C $repo &&
      python3 -m venv $repo/.venv && $repo/.venv/bin/pip install --quiet -e '$repo[tpu]'"
    ;;
  train)
    shift
    # setsid starts a new session, so the process survives the end of the SSH connection.
    on_all_hosts "cd $repo && setsid nohup .venv/bin/python -m vswin_jax.main ${*@Q} \
      >> $log 2>&1 < /dev/null & sleep 1"
    ;;
  log)
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 --command="tail -f $log"
    ;;
  stop)
    # The brackets keep the pattern from matching the command line of the shell that runs pkill.
    on_all_hosts "pkill -TERM -f '[v]swin_jax.main'"
    ;;
  *)
    echo "expected setup, train, log or stop, but '${1:-}' came: see the head of $0" >&2
    exit 2
    ;;
esac
