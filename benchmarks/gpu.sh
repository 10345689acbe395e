#!/usr/bin/env bash
# All that is measured on a GPU, as tables and JSON in OUT:
#     bash benchmarks/gpu.sh OUT [MINUTES [options of train_step.py and inference.py]]
# MINUTES is the time of each of the three parts, after which it begins nothing new; the same
# command goes on then. PYTHON names another interpreter, with jax[cuda12], flax, optax and, unless
# TORCH_PYTHON names one of its own for them, torch and torchvision.
set -uo pipefail
out=$(mkdir -p "${1:?give a directory for the results}" && cd "$1" && pwd)
minutes=${2:-100000}
models=("${@:3}")
python=${PYTHON:-python}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

nvidia-smi > "$out/machine.txt"
status=0
for part in attention train_step inference; do
  echo "== $part ($(date +%T))"
  options=()
  [ "$part" = attention ] || options=("${models[@]}")
  "$python" "benchmarks/$part.py" --device gpu --minutes "$minutes" \
    --torch-python "${TORCH_PYTHON:-$python}" --json "$out/$part.json" \
    "${options[@]}" | tee "$out/$part.txt"
  part_status=${PIPESTATUS[0]}
  [ "$part_status" = 3 ] && echo "$part: time ran out, the same command goes on"
  [ "$part_status" = 0 ] || status=$part_status
done
exit "$status"
