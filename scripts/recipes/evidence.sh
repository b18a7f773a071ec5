#!/usr/bin/env bash
# Does steering help? Vectors; settings chosen on training problems that made no vector; then, on the test, the unsteered
# model twice (how much changes by itself), the vector at the chosen setting and controls. Settings: see common.sh, and
#
#   N_SELECT   problems that settings are chosen on    ALPHAS, LAYERS, THRESHOLDS, SCALES   the grid
#   CONTROLS, KINDS   null controls of each kind
. "$(dirname "$0")/common.sh"
bash "$(dirname "$0")/collect_and_compute.sh"
first=${N_TRAIN:?the range that is left for choosing settings begins where that of the vector ends}
for dataset in "${datasets[@]}"; do
    runs=$OUTPUT_DIR/$name-$dataset
    for prompt in "${prompts[@]}"; do
        steered=(--solver_prompt_idx "$prompt" --dataset "$dataset" --vector_name_template "$(vector "$dataset")")
        run "$python" "$root/src/sweep.py" "${steered[@]}" --selection_split train \
            --selection_range "$first:$((first + ${N_SELECT:-96}))" --alphas "${ALPHAS:-0.1,0.3,0.6}" \
            --layers "${LAYERS:-every:4}" --thresholds "${THRESHOLDS:-none,0.1}" --scales "${SCALES:-raw,residual}" \
            "${common[@]}"
        evaluate greedy_cot "$dataset" --prompts_to_run "$prompt" --run_name again
        read -ra kinds <<<"${KINDS:-random negative}"
        run "$python" "$root/src/null_test.py" "${steered[@]}" --run_name chosen --controls "${CONTROLS:-20}" \
            --kinds "${kinds[@]}" --settings "$runs/als_sweep/prompt_$prompt/chosen.json" \
            ${N_TEST:+--end_data_idx "$N_TEST"} "${common[@]}"
        # One comparison each: the repetition is no arm that p-values should be corrected for.
        for other in "greedy_cot_eval/prompt_${prompt}_again" "als_eval/prompt_${prompt}_chosen"; do
            page=$runs/comparison/prompt_$prompt/${other%%_eval*}
            run "$python" "$root/src/compare_runs.py" "$runs/greedy_cot_eval/prompt_${prompt}_chosen" "$runs/$other" \
                --output_dir "$page" --figure "$page/comparison.png"
        done
    done
done
