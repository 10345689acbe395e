#!/usr/bin/env bash
# Trains on the GPUs of several SLURM nodes as one run, with one process a GPU:
#
#     sbatch --nodes=2 scripts/launch/slurm.sh --config experiments/k400.py --workdir /shared/runs/k400
#
# The arguments after the script's name are for vswin_jax.main; --workdir must be a directory that
# all nodes share. The processes find each other by the environment variables of SLURM.
#
# Two minutes before the time limit, and when the job is preempted, SLURM sends SIGTERM: the run
# saves a checkpoint and exits with status 143, and this script requeues the job, which continues
# the run. To resume a job that ended in any other way, submit the same line again, also with another
# number of nodes. To stop it for good, scancel --signal=TERM the job and, once it is queued again,
# scancel it.
#SBATCH --job-name=vswin_jax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the root of the repository}"

# Each process sees all GPUs of its node and uses the one with its local rank. SLURM must not kill
# the other processes when one fails, because vswin_jax.main stops them itself.
status=0
srun --gpu-bind=none --kill-on-bad-exit=0 python -m vswin_jax.main "$@" || status=$?

if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
