# shellcheck shell=bash
# What overfitting_test.sh and full_training.sh share; sourced by them, from the project's folder.
#
# A sweep is a list of units, each a variant with a seed. A unit ends finished, stopped by a signal with a checkpoint
# (exit code 75), or failed. Settings are environment variables:
#   VARIANT_ORDER   variants, in this order             SEEDS         seeds, by default SEED alone
#   OUTPUT_ROOT     folder for run folders              SAFE_IMAGE    image, or none for the Python outside
#   SAFE_BIND       more folders for the container      MAX_REQUEUES  how often a job may be requeued
#   SAFE_JOB_ID     name under which an interrupted sweep is found again; by default the job's id
#   PROCESSES       processes that train together; by default the job's tasks or, if they are more, its GPUs

usage_error() {
  echo "error: $1: expected $2, got $3; $4" >&2
  exit 2
}

# A job that was submitted from inside a container inherits that container's variables if nothing stopped them.
drop_container_leaks() {
  [ ! -d /.singularity.d ] || return 0
  local name
  if [ -n "${APPTAINER_CONTAINER:-}" ]; then
    [ -z "${USER_PATH:-}" ] || export PATH=$USER_PATH
    for name in $(compgen -e); do
      case $name in
        APPTAINER_CACHEDIR | APPTAINER_TMPDIR) ;;
        APPTAINER* | SINGULARITY*) unset "$name" ;;
      esac
    done
    # shellcheck disable=SC2086  # a list of names
    unset PROMPT_COMMAND USER_PATH ${SAFE_IMAGE_SET:-} SAFE_IMAGE_SET
  fi
  case ${LD_LIBRARY_PATH:-} in *.singularity.d*) unset LD_LIBRARY_PATH ;; esac
}

# number NAME DEFAULT [LEAST]: the variable NAME, or the default where it is empty, as a number from LEAST, or 1, on. What
# is no number must not come into $((...)), where bash runs the commands in it.
number() {
  local value=${!1:-$2} least=${3:-1}
  case $value in
    '' | *[!0-9]*) ;;
    *)
      if [ "${#value}" -le 18 ] && [ "$((10#$value))" -ge "$least" ]; then
        echo "$((10#$value))"
        return
      fi ;;
  esac
  usage_error "$1=$value" "a number from $least on" 'something else' 'correct it'
}

# require_folder NAME: the variable NAME, if it is not empty, names a folder that can be read.
require_folder() {
  local folder=${!1}
  [ -n "$folder" ] || return 0
  [ -d "$folder" ] && [ -r "$folder" ] || usage_error "$1=$folder" 'a folder that can be read' 'none' 'correct it'
  printf -v "$1" '%s' "$(cd "$folder" && pwd -P)"
  mounts+=(--bind "${!1}")
}

# require_file NAME: the same of a file.
require_file() {
  local file=${!1}
  [ -n "$file" ] || return 0
  [ -f "$file" ] && [ -r "$file" ] || usage_error "$1=$file" 'a file that can be read' 'none' 'correct it'
  printf -v "$1" '%s' "$(realpath "$file")"
  mounts+=(--bind "${!1}")
}

# private_folder PATH: prints PATH, made if it is not there, if nobody else can have put anything into it, and a new folder
# otherwise. What lies in the folder is run: bytecode, and kernels that were compiled.
private_folder() {
  mkdir -m 700 "$1" 2>/dev/null || true
  case $(stat -c '%u %A' "$1" 2>/dev/null) in
    "$(id -u) d"????-??-?) printf '%s' "$1" ;;
    *)
      echo "$1: others may write there; caches are kept in a new folder, for this time" >&2
      mktemp -d "${TMPDIR:-/tmp}/safe-XXXXXXXX" ;;
  esac
}

# Sets launch: the words before `python` and `safe-train`.
choose_python() {
  launch=()
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}   # threads that wait actively cost others a core
  if [ -d /.singularity.d ]; then
    export PYTHONPATH=$PWD
    return 0
  fi
  local image=${SAFE_IMAGE:-}
  if [ -z "$image" ]; then
    image=none
    [ ! -r containers/safe.sif ] || image=containers/safe.sif
  fi
  if [ "$image" = none ]; then
    if [ -x .venv/bin/python ]; then export PATH=$PWD/.venv/bin:$PATH; fi
    command -v safe-train >/dev/null ||
      usage_error SAFE_IMAGE 'an image, or safe-train outside of one' neither 'build containers/safe.sif or make .venv'
    return 0
  fi
  [ -r "$image" ] || usage_error "SAFE_IMAGE=$image" 'an image that can be read' 'none' 'correct it, or set it to none'
  local program
  program=$(command -v apptainer || command -v singularity) ||
    usage_error PATH 'apptainer or singularity' neither "load the site's module, or set SAFE_IMAGE=none"
  # The image holds what the checkout needs; the code that runs is the checkout's. Without an NVIDIA driver --nv does
  # nothing but say so.
  launch=("$program" --silent exec --nv --bind "$PWD" --pwd "$PWD" --env "PYTHONPATH=$PWD" "${mounts[@]}")
  [ -z "${SAFE_BIND:-}" ] || launch+=(--bind "$SAFE_BIND")
  [ ! -d "${TMPDIR:-}" ] || launch+=(--bind "$TMPDIR")
  local scratch name
  scratch=$(private_folder "${TMPDIR:-/tmp}/safe-$(id -u)")
  for name in TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR PYTHONPYCACHEPREFIX MPLCONFIGDIR; do
    launch+=(--env "$name=${!name:-$scratch/$name}")   # the image's own values win over the host's otherwise
  done
  launch+=("$image")
}

# Sets together: the words that start a training in several processes, or none for one process.
choose_processes() {
  [ -n "${SLURM_JOB_ID:-}" ] || return 0
  local nodes tasks gpus
  nodes=$(number SLURM_JOB_NUM_NODES 1) || exit
  tasks=$(number SLURM_NTASKS 1) || exit
  gpus=$(number SLURM_GPUS_ON_NODE 1 0) || exit
  gpus=$((nodes * gpus))
  [ "$tasks" -ge "$gpus" ] || tasks=$gpus
  tasks=$(number PROCESSES "$tasks") || exit
  [ "$tasks" -gt 1 ] || return 0
  export MASTER_ADDR=${MASTER_ADDR:-$(hostname)}   # the batch script runs on the first node
  # A signal through srun may hit every process of a task, also the one that holds the container's file system.
  export SAFE_STOP_FILE=$OUTPUT_ROOT/.stop-$SLURM_JOB_ID
  rm -f "$SAFE_STOP_FILE"
  # srun and not torchrun, which leaves with exit code 1 whatever its processes say: a checkpoint's 75 would be lost.
  # The tasks share what the job has; cores are not handed out to them one by one.
  # Once one has ended the others have two minutes; killed at once, they could not end with the same 75.
  together=(srun --nodes="$nodes" --ntasks="$tasks" --overcommit --cpu-bind=none --kill-on-bad-exit=0 --wait=120)
}

# check_variants REGISTRY: every word of VARIANT_ORDER is a name in that mapping of configs.retention_variants, or of
# RETENTION_VARIANTS in VARIANTS_FILE.
check_variants() {
  "${launch[@]}" python scripts/check_variants.py "$1" "${variants[@]}"
}

# run_waiting COMMAND...: runs it in the background and waits, so that a trap runs at once and not after the training.
# Returns its exit code, with 75 for a process that the forwarded signal ended before it could listen.
run_waiting() {
  local status
  interrupted=
  "$@" &
  child=$!
  [ -z "$stop_signal" ] || ask_to_stop
  while true; do
    status=0
    wait "$child" || status=$?
    [ -n "$interrupted" ] || break
    interrupted=
  done
  child=
  [ ${#together[@]} -eq 0 ] || rm -f "$SAFE_STOP_FILE"
  case $stop_signal:$status in USR1:138 | TERM:143) status=75 ;; esac
  return "$status"
}

forward() {
  stop_signal=$1
  interrupted=yes
  [ -z "$child" ] || ask_to_stop
}

ask_to_stop() {
  if [ ${#together[@]} -gt 0 ]; then
    touch "$SAFE_STOP_FILE"
  else
    kill -s "$stop_signal" "$child" 2>/dev/null || true
  fi
}

# In a job: puts it back into the queue, up to MAX_REQUEUES times. The next start goes on from the checkpoint.
requeue() {
  local id=${SLURM_JOB_ID:-} restarts
  restarts=$(number SLURM_RESTART_COUNT 0 0) || return
  [ -n "$id" ] && [ "$stop_signal" != TERM ] || return 0
  [ -z "${SLURM_ARRAY_JOB_ID:-}" ] || id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
  if [ "$restarts" -ge "$MAX_REQUEUES" ]; then
    echo "not requeued: MAX_REQUEUES=$MAX_REQUEUES is reached" >&2
  elif scontrol requeue "$id"; then
    echo "job $id requeued after $restarts restarts"
  else
    echo "not requeued: scontrol refused; submit again with SAFE_JOB_ID=$SAFE_JOB_ID to go on" >&2
  fi
}

# run_unit VARIANT SEED: trains from the start, goes on, or leaves alone what is finished.
run_unit() {
  local found='' status=0
  if [ -n "$SAFE_JOB_ID" ]; then
    # Asked for by hand, since bash goes on after a failed command in a function whose exit code is looked at: no answer
    # would be taken for "no run", and an unfinished one would be trained from its start.
    found=$("${launch[@]}" python scripts/find_runs.py "$OUTPUT_ROOT" "$SAFE_JOB_ID" --unit "$1" "$2") || return
  fi
  case $found in
    finished*)
      echo "$1, seed $2: finished already, ${found#* }"
      return 0 ;;
    unfinished*)
      echo "$1, seed $2: goes on, ${found#* }"
      run_waiting "${together[@]}" "${launch[@]}" safe-train --resume "${found#* }" || status=$? ;;
    *)
      echo "$1, seed $2: starts"
      unit=()   # set by the script's unit_command
      unit_command "$1" "$2" || return
      run_waiting "${together[@]}" "${launch[@]}" "${unit[@]}" || status=$? ;;
  esac
  if [ "$status" -eq 75 ]; then
    requeue
    exit 75
  fi
  return "$status"
}

# The closing table of the sweep's finished runs, on standard output and with the report's page in OUTPUT_ROOT.
summarize() {
  local job=$1 name found status=0
  found=$("${launch[@]}" python scripts/find_runs.py "$OUTPUT_ROOT" "$job" \
    --units "${variants[*]}" "${seeds[*]}") || status=$?
  [ -n "$found" ] || return "$status"
  local runs
  mapfile -t runs <<<"$found"
  name=$OUTPUT_ROOT/report_$job
  # In a function whose exit code is looked at, bash goes on after a failed command.
  "${launch[@]}" safe report "${runs[@]}" --output "$name.html" >"$name.partial" || { rm "$name.partial"; return 1; }
  mv "$name.partial" "$name.txt"
  cat "$name.txt"
  return "$status"
}

# main REGISTRY ACTION...: what a script does after it has set its variables and functions.
main() {
  local registry=$1 action=${2:-run} variant seed index status=0
  stop_signal='' child='' interrupted='' mounts=() together=()
  MAX_REQUEUES=$(number MAX_REQUEUES 50 0) || exit
  read -r -a variants <<<"$VARIANT_ORDER"
  read -r -a seeds <<<"${SEEDS:-$SEED}"
  [ ${#seeds[@]} -gt 0 ] || usage_error "SEEDS='$SEEDS'" 'one or more numbers' none 'name some, or leave it empty for SEED'
  for seed in "${seeds[@]}"; do number seed '' 0 >/dev/null || exit; done
  trap 'forward USR1' USR1
  # A terminal's Ctrl-C reaches the child too, and the second of two interrupts ends it at once.
  trap 'forward TERM' TERM INT
  drop_container_leaks
  check_paths
  if [ "$action" != list ] || [ ! -d "$OUTPUT_ROOT" ]; then mkdir -p "$OUTPUT_ROOT"; fi
  require_folder OUTPUT_ROOT
  choose_python
  choose_processes
  check_variants "$registry" || exit 2
  case $action in
    list)
      for seed in "${seeds[@]}"; do for variant in "${variants[@]}"; do echo "$variant $seed"; done; done
      return 0 ;;
    summary)
      summarize "${3:?a job id}"
      return ;;
    run) ;;
    *) usage_error "$action" 'run, list or summary' 'another word' 'leave it out to run' ;;
  esac

  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    export SAFE_JOB_ID=${SAFE_JOB_ID:-$SLURM_ARRAY_JOB_ID}
    index=$(number SLURM_ARRAY_TASK_ID '' 0) || exit
    [ "$index" -lt $((${#variants[@]} * ${#seeds[@]})) ] ||
      usage_error "array index $index" "at most $((${#variants[@]} * ${#seeds[@]} - 1))" "$index" 'see submit_sweep.sh'
    run_unit "${variants[index % ${#variants[@]}]}" "${seeds[index / ${#variants[@]}]}"
    return
  fi
  export SAFE_JOB_ID=${SAFE_JOB_ID:-${SLURM_JOB_ID:-$(date +%Y%m%d-%H%M%S)-$$}}
  for seed in "${seeds[@]}"; do
    for variant in "${variants[@]}"; do
      run_unit "$variant" "$seed" || { status=$?; echo "$variant, seed $seed: failed with exit code $status" >&2; }
    done
  done
  summarize "$SAFE_JOB_ID" || status=$?
  return "$status"
}
