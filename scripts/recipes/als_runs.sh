#!/usr/bin/env bash
# The steered runs of each data set: als on each prompt, als_gated on the JSON prompt. Settings: see common.sh.
. "$(dirname "$0")/common.sh"
for dataset in "${datasets[@]}"; do
    template=$(vector "$dataset")
    evaluate als "$dataset" --prompts_to_run "${prompts[@]}" --vector_name_template "$template"
    case " ${prompts[*]} " in
    *" 1 "*) evaluate als_gated "$dataset" --prompts_to_run 1 --vector_name_template "$template" ;;
    esac
done
