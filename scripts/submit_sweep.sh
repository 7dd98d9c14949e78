#!/usr/bin/env bash
# Submits a job array with one task a variant and seed, and a job that writes the report when all of them have ended:
#
#   VARIANT_ORDER="no_retention full_retention" SEEDS="42 43 44" \
#     bash scripts/submit_sweep.sh scripts/full_training.sh --gpus=1 --time=24:00:00
#
# Options after the script go to the array's sbatch. Variants, folders and image are checked before anything is submitted.
set -euo pipefail

script=${1:?expected scripts/overfitting_test.sh or scripts/full_training.sh}
shift
if ! command -v sbatch >/dev/null; then
  echo "error: sbatch: expected Slurm's commands on PATH, got none; run this where jobs are submitted, or the sweep itself here: bash $script" >&2
  exit 2
fi
units=$(bash "$script" list)
count=$(wc -l <<<"$units")
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
job=$(sbatch --parsable --array="0-$((count - 1))" --output="$name-%A_%a.out" "$@" "$script")
job=${job%%;*}   # a federation appends the cluster's name
summary=$(sbatch --parsable --dependency="afterany:$job" --output="$name-$job-summary.out" "$script" summary "$job")
printf 'array %s, %d tasks:\n%s\nsummary job %s\n' "$job" "$count" "$units" "${summary%%;*}"
