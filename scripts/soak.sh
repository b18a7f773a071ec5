#!/usr/bin/env bash
# Kill each command N times at random instants and resume it, with a new seed each round: scripts/soak.sh [N] [ROUNDS]
. "$(dirname "$0")/setup.sh"
cd "$root"
for round in $(seq "${2:-1}"); do
    ALS_KILLS=${1:-100} ALS_SEED=$RANDOM "$python" -m pytest -m slow tests/test_faults.py -k killed || exit 1
    echo "soak: round $round done"
done
