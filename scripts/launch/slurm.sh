#!/usr/bin/env bash
# Trains on the GPUs of several SLURM nodes as one run, with one process a GPU:
#
#     sbatch --nodes=2 scripts/launch/slurm.sh --config experiments/k400.py --workdir /shared/runs/k400
#
# What follows the script's name is for vswin_jax.main; --workdir must be a directory that all nodes
# share. SLURM's variables tell the processes of each other, no address is needed.
#
# Two minutes before the time limit, and when the job is preempted, SLURM sends SIGTERM: the run
# saves, ends with status 143, and the job queues again and goes on by itself. To resume a job that
# ended in any other way, submit the same line again; the number of nodes may be another one. To stop
# it for good, scancel --signal=TERM the job and, once it is queued again, scancel it.
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

# Each process sees all GPUs of its node and takes the one of its local number. One that ends badly
# tells the others itself.
status=0
srun --gpu-bind=none --kill-on-bad-exit=0 python -m vswin_jax.main "$@" || status=$?

if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
