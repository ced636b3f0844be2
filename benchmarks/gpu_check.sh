#!/usr/bin/env bash
# Run benchmarks/gpu_check.py with the Python that has torch, on a machine that may have no network and no installed
# keepstep. What that Python lacks is installed from .wheels/ (`make gpu-wheels`) into a temporary directory.
#
#   bash benchmarks/gpu_check.sh [--device cuda|cpu] [--tiny] [--only PART] [--out FILE]
#
# PYTHON names the interpreter; by default the first of python3 and .venv/bin/python that has torch and transformers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

has_torch() { "$1" -c 'from importlib.util import find_spec as f, sys; sys.exit(not (f("torch") and f("transformers")))' 2>/dev/null; }

if [ -z "${PYTHON:-}" ]; then
    for candidate in python3 .venv/bin/python; do
        if command -v "$candidate" >/dev/null && has_torch "$candidate"; then PYTHON=$candidate; break; fi
    done
fi
if [ -z "${PYTHON:-}" ]; then
    echo "no Python with torch and transformers: run \`make setup\`, or name one: PYTHON=/path/to/python" >&2
    exit 2
fi

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$PYTHON" benchmarks/gpu_site.py .wheels "$site"
PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m benchmarks.gpu_check "$@"
