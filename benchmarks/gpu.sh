#!/usr/bin/env bash
# All that a GPU is needed for, within 12 minutes, as one JSON on standard output; --cpu runs what a CPU can, within one.
# usage: benchmarks/gpu.sh WORK [--cpu]      (PYTHON names the interpreter that has sslfeat[all])
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
