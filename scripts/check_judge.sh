#!/usr/bin/env bash
# Judge the whole of GSM8K and MATH against themselves: scripts/check_judge.sh DATA_DIR
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=python
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
fi
exec "$python" "$root/scripts/check_judge.py" "$@"
