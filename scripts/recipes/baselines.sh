#!/usr/bin/env bash
# The baselines of each data set: greedy chain of thought, self-consistency, LatentSeek. Settings: see common.sh.
. "$(dirname "$0")/common.sh"
for dataset in "${DATASETS[@]}"; do
    for mode in greedy_cot self_consistency latentseek; do
        evaluate "$mode" "$dataset" --prompts_to_run "${PROMPTS[@]}"
    done
done
