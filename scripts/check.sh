#!/usr/bin/env bash
# Lint, tests, and a short run of the digits experiment, in the active environment; .ci/run calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
ruff check .
ruff format --check .
workdir=$(mktemp -d)
trap 'rm -rf "$workdir"' EXIT
export JAX_COMPILATION_CACHE_DIR=$workdir/compiled  # the same programs in both
python -m pytest
python -m pytest -m slow
python -m reweight_jax.main --config=configs/mnist_imbalance.py:digits --config.num_steps=200 \
  --workdir="$workdir/run"
