#!/usr/bin/env bash
# The three phases on a real model: SmolLM2-135M-Instruct on built-in arithmetic, in a few minutes on two cores.
#
#   bash scripts/quickstart.sh [FOLDER]       # everything is written to FOLDER, default output/quickstart
. "$(dirname "$0")/setup.sh"
out=${1:-$root/output/quickstart}
model=$root/.cache/SmolLM2-135M-Instruct
n=96
common=(--model_name_or_path "$model" --dataset arithmetic --end_data_idx "$n" --max_new_tokens 256 --output_dir "$out" --resume)
runs=$out/SmolLM2-135M-Instruct-arithmetic
vector=$out/vectors/smollm2_arithmetic_p0.pt

step() { printf '\n== %s\n' "$*"; }

step "Phase 1: answer $n training problems, label the answers, keep their mean states"
"$python" "$root/src/collect_states.py" "${common[@]}" --split train --label_by answer

step "Phase 2: one vector a layer from the good and the bad states"
"$python" "$root/src/compute_steering_vector.py" --overwrite \
    --states_dir "$runs/state_collection/prompt0_answer/hidden_states" --output_file "$vector"

step "Phase 3: $n test problems, without and with the vector"
"$python" "$root/src/main.py" --generation_mode greedy_cot "${common[@]}" --split test --prompts_to_run 0
"$python" "$root/src/main.py" --generation_mode als "${common[@]}" --split test --prompts_to_run 0 \
    --vector_name_template "$out/vectors/smollm2_arithmetic_p{prompt_idx}.pt"

step "Side by side"
"$python" "$root/scripts/show_runs.py" "$runs/greedy_cot_eval/prompt_0" "$runs/als_eval/prompt_0"
"$python" "$root/src/create_chart.py" --output_dir "$out/charts" --window 32 \
    --log_file "$runs/greedy_cot_eval/prompt_0/logistics.pt" "$runs/als_eval/prompt_0/logistics.pt"
