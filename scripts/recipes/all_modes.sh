#!/usr/bin/env bash
# Every mode on every prompt, as one table: states and vectors first, then the runs. Settings: see common.sh.
. "$(dirname "$0")/common.sh"
here=$(dirname "$0")
bash "$here/collect_and_compute.sh"
bash "$here/baselines.sh"
bash "$here/als_runs.sh"
for dataset in "${datasets[@]}"; do
    runs=$OUTPUT_DIR/$name-$dataset
    for prompt in "${prompts[@]}"; do
        folders=()
        for mode in greedy_cot als als_gated self_consistency latentseek; do
            # als_gated knows the JSON prompt only.
            [ "$mode/$prompt" = als_gated/0 ] || folders+=("$runs/${mode}_eval/prompt_$prompt")
        done
        run "$python" "$root/scripts/show_runs.py" "${folders[@]}"
    done
done
