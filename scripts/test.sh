#!/usr/bin/env bash
# Run the tests; arguments go to pytest, e.g. scripts/test.sh tests/test_steering.py -k oracle
. "$(dirname "$0")/setup.sh"
cd "$root"
# Two processes of one thread each are faster than one of two, and threads of both in each other's way are slow.
export OMP_NUM_THREADS=1
# Files in their order: by the number of their tests, the files of few long ones would all come last.
exec "$python" -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder "$@"
