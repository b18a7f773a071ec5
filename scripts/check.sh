#!/usr/bin/env bash
# Format, lint and types. `scripts/check.sh --fix` formats and mends what can be mended.
. "$(dirname "$0")/setup.sh"
cd "$root"
if [ "${1:-}" = --fix ]; then
    "$python" -m ruff format .
    "$python" -m ruff check --fix .
else
    "$python" -m ruff format --check .
    "$python" -m ruff check .
fi
"$python" -m mypy
