#!/usr/bin/env bash
# Phases 1 and 2: states and a vector for each data set and prompt. Settings: see common.sh.
. "$(dirname "$0")/common.sh"
for dataset in "${datasets[@]}"; do
    for prompt in "${prompts[@]}"; do
        run "$python" "$root/src/collect_states.py" --dataset "$dataset" --split train \
            --solver_prompt_idx "$prompt" --label_by "$LABEL_BY" --good_example_threshold "$THRESHOLD" \
            ${N_TRAIN:+--end_data_idx "$N_TRAIN"} "${common[@]}"
        template=$(vector "$dataset")
        run "$python" "$root/src/compute_steering_vector.py" --overwrite \
            --states_dir "$OUTPUT_DIR/$name-$dataset/state_collection/prompt${prompt}_$labelled/hidden_states" \
            --output_file "${template/\{prompt_idx\}/$prompt}"
    done
done
