#!/usr/bin/env bash
# GPU benchmarks (12 minutes), with JSON on standard output; --cpu runs the parts that do not need a GPU (1 minute).
# usage: benchmarks/gpu.sh WORK [--cpu]      (PYTHON: interpreter with sslfeat[all])
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
