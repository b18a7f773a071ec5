#!/usr/bin/env bash
# Judge the whole of GSM8K and MATH against themselves: scripts/check_judge.sh DATA_DIR
. "$(dirname "$0")/setup.sh"
exec "$python" "$root/scripts/check_judge.py" "$@"
