#!/usr/bin/env bash
# als at several strengths, each in a folder of its own. ALPHAS, default 0.0 0.1 0.3 0.6. Settings: see common.sh.
. "$(dirname "$0")/common.sh"
for dataset in "${datasets[@]}"; do
    template=$(vector "$dataset")
    for alpha in ${ALPHAS:-0.0 0.1 0.3 0.6}; do
        evaluate als "$dataset" --prompts_to_run "${prompts[@]}" --vector_name_template "$template" --alpha "$alpha"
    done
done
