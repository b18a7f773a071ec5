#!/usr/bin/env bash
# The baselines of each data set: greedy chain of thought, self-consistency, LatentSeek. Settings: see common.sh;
# MAX_NUM_STEPS (10) bounds LatentSeek's search.
. "$(dirname "$0")/common.sh"
for dataset in "${datasets[@]}"; do
    evaluate greedy_cot "$dataset" --prompts_to_run "${prompts[@]}"
    evaluate self_consistency "$dataset" --prompts_to_run "${prompts[@]}"
    evaluate latentseek "$dataset" --prompts_to_run "${prompts[@]}" --max_num_steps "${MAX_NUM_STEPS:-10}"
done
