#!/usr/bin/env bash
# Measures on a GPU or TPU: steps, the loop, utilisation, kernels, Tables 2 and 1 at full size.
#
#   SECONDS_LEFT=540 bash scripts/benchmarks/accelerator.sh [PART ...]
#
# Parts: step_lenet, step_resnet32, step_wrn (float32, beside PyTorch), bfloat16_resnet32,
# bfloat16_wrn (with the whole loop), kernels, table2, table1; all if none is named. The same command
# again goes on where the time ran out: finished parts are left as they are, a training run resumes
# from its checkpoint, and steps are timed again from the start of their part. Tables and numbers
# are written to $OUTPUT, runs and logs to $RUNS. $STEP_FLAGS are more flags of step.py, such as
# --steps=plain,jvp, and $TABLE_FLAGS of sweep.py, such as --config.model.dtype=bfloat16
# --methods=reweight --finetune_from=none. PyTorch's rows need `pip install 'reweight-jax[bench]'`,
# CIFAR-10 needs scripts/prepare_data.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${OUTPUT:-runs/results/accelerator} runs=${RUNS:-runs/accelerator}
end=$((SECONDS + ${SECONDS_LEFT:-540}))
all="step_lenet step_resnet32 step_wrn bfloat16_resnet32 bfloat16_wrn kernels table2 table1"
wanted=${*:-$all}
for name in $wanted; do
  [[ " $all " == *" $name "* ]] || { echo "$name: no such part; there are: $all" >&2; exit 2; }
done
mkdir -p "$output" "$runs"

part() { # NAME COMMAND...: unless it is finished; ends the script if the time runs out
  local name=$1 left=$((end - SECONDS)) status=0
  [[ " $wanted " == *" $name "* ]] || return 0
  shift
  [ -e "$runs/$name.done" ] && return
  [ "$left" -gt 30 ] || { echo "$name: no time left; run this again"; exit 0; }
  echo "== $name"
  timeout --signal=INT --kill-after=20 "$left" "$@" 2>&1 | tee -a "$runs/$name.log" || status=$?
  case $status in
    0) touch "$runs/$name.done" ;;
    124 | 130) echo "$name: stopped; run this again"; exit 0 ;;
    *) exit "$status" ;;
  esac
}

step() { python scripts/benchmarks/step.py --rounds=10 ${STEP_FLAGS:-} "$@"; }
table() { # NOISE VARIANT: baseline and reweight, one trial, and the table of both
  python scripts/sweep.py --config="configs/cifar_$1_flip.py:$2" --methods=reweight,baseline \
    --seeds=0 --workdir="$runs" --results="$output" ${TABLE_FLAGS:-}
}
export -f step table
export runs output

for network in lenet resnet32 wrn; do
  part "step_$network" bash -c "step --torch --noloop --networks=$network \
    --json=$output/step_$network.json"
done
for network in resnet32 wrn; do
  part "bfloat16_$network" bash -c "step --dtype=bfloat16 --networks=$network \
    --json=$output/bfloat16_$network.json"
done
part kernels bash -c "python scripts/benchmarks/kernels.py --network=resnet32 &&
  python scripts/benchmarks/kernels.py --network=wrn --dtype=bfloat16"
part table2 bash -c "table background cifar10"
part table1 bash -c "table uniform cifar10"
