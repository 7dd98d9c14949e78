#!/usr/bin/env bash
# The overfitting ablation: few clips, many epochs, each variant in turn. Also runs without Slurm:
#
#   bash scripts/overfitting_test.sh
#   apptainer exec containers/safe.sif sbatch scripts/overfitting_test.sh
#   VARIANT_ORDER="no_retention full_safe" SEEDS="42 43" bash scripts/submit_sweep.sh scripts/overfitting_test.sh
#
# A GPU, a partition and a time limit are the site's: give them to sbatch, or as SBATCH_GPUS, SBATCH_PARTITION, SBATCH_TIMELIMIT.
#SBATCH --job-name=safe-overfitting
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
set -euo pipefail

VARIANT_ORDER=${VARIANT_ORDER:-no_retention soft_retention full_safe}
SEED=${SEED:-42}
DATA_ROOT=${DATA_ROOT:-}
PACK_ROOT=${PACK_ROOT:-}                # a pack; without one, a procedural pack is made
OUTPUT_ROOT=${OUTPUT_ROOT:-experiments/overfitting/runs}
SUBSET_SIZE=${SUBSET_SIZE:-400}
TRAIN_SOURCE=${TRAIN_SOURCE:-pack}
VAL_SOURCE=${VAL_SOURCE:-pack_vl}
VAL_SIZE=${VAL_SIZE:-500}
TEXT_SOURCE=${TEXT_SOURCE:-auto}        # text-only rows: auto, text, pack, embedded or none
TEXT_SHARE=${TEXT_SHARE:-}              # share of the protected rows that are text-only, if there are any
MAX_TEXT_VAL_SAMPLES=${MAX_TEXT_VAL_SAMPLES:-}  # empty: all
NUM_EPOCHS=${NUM_EPOCHS:-30}
TRAIN_BS=${TRAIN_BS:-8}
VAL_BS=${VAL_BS:-16}
NUM_WORKERS=${NUM_WORKERS:-0}
MODEL_CONFIG=${MODEL_CONFIG:-demo}
MAX_EVAL_BATCHES=${MAX_EVAL_BATCHES:-}  # empty: all of VAL_SIZE
GEN_MAX_NEW_TOKENS=${GEN_MAX_NEW_TOKENS:-12}

# In a job, the script itself lies in a spool folder.
folder=$(dirname "${BASH_SOURCE[0]}")
[ -e "$folder/common.sh" ] || folder=${SLURM_SUBMIT_DIR:-.}/scripts
[ -e "$folder/common.sh" ] || { echo "error: $PWD: expected the project's folder; submit from there" >&2; exit 2; }
cd "$folder/.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

check_paths() {
  require_folder DATA_ROOT
  require_folder PACK_ROOT
}

unit_command() {
  unit=(python -m experiments.overfitting.run_overfitting --variant "$1" --seed "$2" --output-root "$OUTPUT_ROOT"
    --subset-size "$SUBSET_SIZE" --train-source "$TRAIN_SOURCE" --val-source "$VAL_SOURCE" --val-size "$VAL_SIZE"
    --num-epochs "$NUM_EPOCHS" --train-batch-size "$TRAIN_BS" --val-batch-size "$VAL_BS"
    --num-workers "$NUM_WORKERS" --model-config "$MODEL_CONFIG" --generation-max-new-tokens "$GEN_MAX_NEW_TOKENS")
  unit+=(--text-source "$TEXT_SOURCE")
  [ -z "$TEXT_SHARE" ] || unit+=(--text-share "$TEXT_SHARE")
  [ -z "$MAX_TEXT_VAL_SAMPLES" ] || unit+=(--text-val-size "$MAX_TEXT_VAL_SAMPLES")
  [ -z "$DATA_ROOT" ] || unit+=(--data-path "$DATA_ROOT")
  [ -z "$PACK_ROOT" ] || unit+=(--pack-root "$PACK_ROOT")
  [ -z "$MAX_EVAL_BATCHES" ] || unit+=(--max-eval-batches "$MAX_EVAL_BATCHES")
}

main OVERFITTING_VARIANTS "$@"
