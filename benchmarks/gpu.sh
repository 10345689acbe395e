#!/usr/bin/env bash
# Runs every GPU benchmark and writes tables and JSON to OUT:
#     bash benchmarks/gpu.sh OUT [MINUTES [options of train_step.py and inference.py]]
# Each of the three benchmarks starts no new measurement after MINUTES; the same command resumes
# them. PYTHON is the interpreter that has jax[cuda12], flax and optax. It must have torch and
# torchvision too, unless TORCH_PYTHON is an interpreter that has them.
set -uo pipefail
out=$(mkdir -p "${1:?expected a directory for the results}" && cd "$1" && pwd)
minutes=${2:-100000}
model_options=("${@:3}")
python=${PYTHON:-python}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

nvidia-smi > "$out/machine.txt"
status=0
for name in attention train_step inference; do
  echo "== $name ($(date +%T))"
  options=()
  [ "$name" = attention ] || options=("${model_options[@]}")
  "$python" "benchmarks/$name.py" --device gpu --minutes "$minutes" \
    --torch-python "${TORCH_PYTHON:-$python}" --json "$out/$name.json" \
    "${options[@]}" | tee "$out/$name.txt"
  name_status=${PIPESTATUS[0]}
  [ "$name_status" = 3 ] && echo "$name: stopped after $minutes minutes; the same command resumes"
  [ "$name_status" = 0 ] || status=$name_status
done
exit "$status"
