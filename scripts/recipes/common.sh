# Sourced by the recipes: the settings they share, each from the environment, and `run`.
# They run in the active virtual or conda environment, or else in .venv, and install nothing.
#
#   MODEL      hub id, folder or .gguf file      default: SmolLM2-135M-Instruct, as scripts/setup.sh prepares it
#   DATASETS   data sets, separated by spaces    default: arithmetic
#   PROMPTS    solver prompts                    default: 0 1
#   LABEL_BY   verifiers or answer               default: answer (a model of 135M parameters verifies nothing)
#   N_TRAIN, N_TEST, MAX_NEW_TOKENS, OUTPUT_DIR, VECTORS   see below
#   DRY_RUN=1  print the commands instead of running them
#
# The paper's runs:  MODEL=meta-llama/Llama-3.1-8B-Instruct DATASETS="openai/gsm8k MATH-500" LABEL_BY=verifiers \
#                    N_TRAIN=1000 N_TEST= MAX_NEW_TOKENS=1024 bash scripts/recipes/collect_and_compute.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Threads that wait sleep instead of spinning: twice as fast where anything else runs on the same cores.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}

stop() {
    echo "recipes: $1" >&2
    exit 2
}

if [ "${DRY_RUN:-0}" = 1 ]; then
    python=python
elif [ -n "${VIRTUAL_ENV:-}" ]; then
    python=$VIRTUAL_ENV/bin/python
elif [ -n "${CONDA_PREFIX:-}" ] && [ -x "$CONDA_PREFIX/bin/python" ]; then
    python=$CONDA_PREFIX/bin/python
elif [ -x "$root/.venv/bin/python" ]; then
    python=$root/.venv/bin/python
else
    python=python3
fi
if [ "${DRY_RUN:-0}" != 1 ]; then
    "$python" -c 'import als' 2>/dev/null ||
        stop "$python cannot import als: run '$python -m pip install -e $root', or 'bash $root/scripts/setup.sh'"
fi

if [ -z "${MODEL:-}" ]; then
    MODEL=$root/.cache/SmolLM2-135M-Instruct
    [ "${DRY_RUN:-0}" = 1 ] || [ -f "$MODEL/config.json" ] ||
        stop "there is no $MODEL: set MODEL, or run 'bash $root/scripts/setup.sh', which prepares that folder"
fi
# Arrays have names of their own: a recipe starts others, and bash exports DATASETS and PROMPTS as plain text only.
read -ra datasets <<<"${DATASETS:-arithmetic}"
read -ra prompts <<<"${PROMPTS:-0 1}"
LABEL_BY=${LABEL_BY:-answer}
THRESHOLD=${THRESHOLD:-3}
N_TRAIN=${N_TRAIN-96}   # set but empty: the whole split
N_TEST=${N_TEST-96}
MAX_NEW_TOKENS=${MAX_NEW_TOKENS:-256}
OUTPUT_DIR=${OUTPUT_DIR:-$root/output}
VECTORS=${VECTORS:-$root/vectors}

name=$(basename "$MODEL" .gguf)
common=(--model_name_or_path "$MODEL" --max_new_tokens "$MAX_NEW_TOKENS" --output_dir "$OUTPUT_DIR" --resume)
if [ "$LABEL_BY" = answer ]; then labelled=answer; else labelled=thresh$THRESHOLD; fi

run() {
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "$@"
        echo
    else
        "$@" || [ $? -eq 3 ] # 3: done, but single problems failed, which the summary counts
    fi
}

vector() { # data set -> the template of its vectors' names
    echo "$VECTORS/${name}_${1//\//-}_p{prompt_idx}_$labelled.pt"
}

evaluate() { # mode, data set, further options
    run "$python" "$root/src/main.py" --generation_mode "$1" --dataset "$2" --split test \
        ${N_TEST:+--end_data_idx "$N_TEST"} "${common[@]}" "${@:3}"
}
