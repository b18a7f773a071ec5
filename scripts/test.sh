#!/usr/bin/env bash
# Run the tests; arguments go to pytest, e.g. scripts/test.sh tests/test_steering.py -k oracle
. "$(dirname "$0")/setup.sh"
cd "$root"
exec "$python" -m pytest "$@"
