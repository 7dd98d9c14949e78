#!/usr/bin/env bash
# Stage A on full data, each variant in turn or as a job array. Also runs without Slurm; without DATA_ROOT it trains the
# embedded model on procedural data:
#
#   bash scripts/full_training.sh
#   DATA_ROOT=/scratch/data sbatch --gpus=1 --time=24:00:00 scripts/full_training.sh
#   VARIANT_ORDER="no_retention fisher_retention full_retention" bash scripts/submit_sweep.sh scripts/full_training.sh
#
# A setting that is left empty keeps safe-train's default.
#SBATCH --job-name=safe-training
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
set -euo pipefail

VARIANT_ORDER=${VARIANT_ORDER:-no_retention soft_retention fisher_retention nullspace_retention full_retention}
VARIANTS_FILE=${VARIANTS_FILE:-}        # YAML file of further variants
SEED=${SEED:-42}
DATA_ROOT=${DATA_ROOT:-}                # audiocaps/ (wavcaps/), vqa/ and text/
OUTPUT_ROOT=${OUTPUT_ROOT:-runs}
MODEL_CONFIG=${MODEL_CONFIG:-${DATA_ROOT:+full}}
TRAIN_SPLIT=${TRAIN_SPLIT:-train}
VAL_AUDIO_SPLIT=${VAL_AUDIO_SPLIT:-val}
VAL_VQA_SPLIT=${VAL_VQA_SPLIT:-$VAL_AUDIO_SPLIT}
NUM_EPOCHS=${NUM_EPOCHS:-}
TRAIN_BS=${TRAIN_BS:-}
VAL_BS=${VAL_BS:-}
NUM_WORKERS=${NUM_WORKERS:-}
LR_PROJECTOR=${LR_PROJECTOR:-}
LR_ADAPTER=${LR_ADAPTER:-}
NULL_SPACE_RANK=${NULL_SPACE_RANK:-}
NULL_SPACE_MIN_SAMPLES=${NULL_SPACE_MIN_SAMPLES:-}
NULL_SPACE_REFRESH=${NULL_SPACE_REFRESH:-}
USE_WAVCAPS=${USE_WAVCAPS:-0}           # 1: train on WavCaps, too
WAVCAPS_RATIO=${WAVCAPS_RATIO:-1}       # share of WavCaps among the clips; 1 for WavCaps alone
GRADIENT_ACCUMULATION_STEPS=${GRADIENT_ACCUMULATION_STEPS:-}
MAX_AUDIO_VAL_SAMPLES=${MAX_AUDIO_VAL_SAMPLES:-}
MAX_VQA_VAL_SAMPLES=${MAX_VQA_VAL_SAMPLES:-}
MAX_TEXT_VAL_SAMPLES=${MAX_TEXT_VAL_SAMPLES:-}  # empty: all
TEXT_SHARE=${TEXT_SHARE:-}              # share of the protected rows that are text-only, if there are any
SAFE_SET=${SAFE_SET:-}                  # more settings, as for safe-train --set: "key=value key=value"

# In a job, the script itself lies in a spool folder.
folder=$(dirname "${BASH_SOURCE[0]}")
[ -e "$folder/common.sh" ] || folder=${SLURM_SUBMIT_DIR:-.}/scripts
[ -e "$folder/common.sh" ] || { echo "error: $PWD: expected the project's folder; submit from there" >&2; exit 2; }
cd "$folder/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

check_paths() {
  require_folder DATA_ROOT
  require_file VARIANTS_FILE
  export VARIANTS_FILE   # check_variants.py reads it
  awk -v ratio="$WAVCAPS_RATIO" 'BEGIN { exit !(ratio ~ /^[0-9]*\.?[0-9]+$/ && ratio > 0 && ratio <= 1) }' ||
    usage_error WAVCAPS_RATIO 'a number above 0 and at most 1' "$WAVCAPS_RATIO" 'write 0.5 for half of the clips'
}

# set_to KEY VALUE: a setting, if the value is not empty.
set_to() {
  [ -z "$2" ] || settings+=(--set "$1=$2")
}

# option NAME VALUE: the same of what has an option, which takes the value as it is; --set reads it as YAML.
option() {
  [ -z "$2" ] || settings+=("--$1" "$2")
}

unit_command() {
  local settings=() pair
  option variant "$1"
  option variants-file "$VARIANTS_FILE"
  option seed "$2"
  option output-root "$OUTPUT_ROOT"
  option model-config "$MODEL_CONFIG"
  option data-root "$DATA_ROOT"
  set_to data.train_split "$TRAIN_SPLIT"
  set_to data.val_split "$VAL_AUDIO_SPLIT"
  set_to data.num_workers "$NUM_WORKERS"
  [ "$VAL_VQA_SPLIT" = "$VAL_AUDIO_SPLIT" ] || set_to data.val_vl_split "$VAL_VQA_SPLIT"
  if [ "$USE_WAVCAPS" != 0 ]; then
    set_to data.train_audio_source wavcaps
    set_to data.train_audio_mixture "$(awk -v ratio="$WAVCAPS_RATIO" 'BEGIN { if (ratio < 1)
      printf "[{source: audiocaps, weight: %.10g}, {source: wavcaps, weight: %.10g}]", 1 - ratio, ratio }')"
  fi
  set_to optimization.audio_batch_size "$TRAIN_BS"
  set_to optimization.vl_batch_size "$TRAIN_BS"
  set_to optimization.gradient_accumulation_steps "$GRADIENT_ACCUMULATION_STEPS"
  set_to optimization.lr_projector "$LR_PROJECTOR"
  set_to optimization.lr_adapter "$LR_ADAPTER"
  set_to retention.null_space_rank "$NULL_SPACE_RANK"
  set_to retention.null_space_min_samples "$NULL_SPACE_MIN_SAMPLES"
  set_to retention.null_space_refresh_interval "$NULL_SPACE_REFRESH"
  set_to evaluation.batch_size "$VAL_BS"
  set_to evaluation.max_audio "$MAX_AUDIO_VAL_SAMPLES"
  set_to evaluation.max_vl "$MAX_VQA_VAL_SAMPLES"
  set_to evaluation.max_text "$MAX_TEXT_VAL_SAMPLES"
  set_to data.text_ratio "$TEXT_SHARE"
  for pair in $SAFE_SET; do settings+=(--set "$pair"); done
  if [ -n "$NUM_EPOCHS" ]; then
    local steps
    steps=$("${launch[@]}" python scripts/steps_of_epochs.py "$NUM_EPOCHS" "${settings[@]}") || return
    option max-steps "$steps"
  fi
  unit=(safe-train "${settings[@]}")
}

main RETENTION_VARIANTS "$@"
