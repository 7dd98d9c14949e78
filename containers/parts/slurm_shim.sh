#!/bin/bash
# sbatch, srun, squeue and scancel inside the image: the command works, or the line that makes it work is printed (exit
# code 78, EX_CONFIG of sysexits.h). Submitting from a container needs the site's slurm.conf and munge's socket, which
# only the host can mount; and what the container sets for itself must not travel into the job.
set -uo pipefail

readonly command=${0##*/}
readonly program=${SAFE_SLURM_BIN:-/usr/bin}/$command   # a site's own client, where the image's is too new or too old
readonly host_path=${USER_PATH:-$PATH}                   # Apptainer keeps the host's PATH there

# quoted WORDS...: the words as a shell reads them back, for lines that are pasted.
quoted() {
  local word out=''
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then out+=" $word"; else out+=" $(printf '%q' "$word")"; fi
  done
  printf '%s' "${out# }"
}

# stop REASON LINE THEN: says what is missing and the one line that mends it.
stop() {
  printf '%s: %s\nOn the host, run this line%s:\n%s\n' "$command" "$1" "$3" "$2" >&2
  exit 78
}

missing_bind() {
  stop "$1" "export APPTAINER_BIND=\"\${APPTAINER_BIND:+\$APPTAINER_BIND,}$2\"" ', and then the same command again'
}

submit_from_host() {
  local image=''
  [ -z "${APPTAINER_CONTAINER:-}" ] || image="SAFE_IMAGE=$(quoted "$APPTAINER_CONTAINER") "
  stop "$1" "$image$(quoted "$command" "${arguments[@]}")" ' in place of this one (the job still runs in the image)'
}

find_configuration() {
  local file
  for file in ${SLURM_CONF:+"$SLURM_CONF"} /etc/slurm/slurm.conf /run/slurm/conf/slurm.conf; do
    if [ -r "$file" ]; then printf '%s' "$file"; return; fi
  done
}

# setting NAME: the value of a line NAME=VALUE of slurm.conf, upper and lower case alike, as Slurm reads it.
setting() {
  sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*\([^#[:space:]]*\).*/\1/Ip" "$configuration" | tail -n 1
}

check_configuration() {
  local folder=/etc/slurm
  [ -z "${SLURM_CONF:-}" ] || folder=$(dirname "$SLURM_CONF")
  configuration=$(find_configuration)
  if [ -z "$configuration" ] && [ -z "${SLURM_CONF_SERVER:-}" ]; then
    missing_bind "no slurm.conf in the container; a site without $folder may have it in /run/slurm/conf" \
      "$folder,/run/munge"
  fi
}

check_munge() {
  local kind socket
  [ -n "$configuration" ] || return 0
  kind=$(setting AuthType)
  if [ "${kind:-auth/munge}" != auth/munge ]; then
    submit_from_host "the site authenticates by $kind, which does not reach into a container"
  fi
  socket=$(setting AuthInfo | sed -n 's/.*socket=\([^,]*\).*/\1/p')
  socket=${socket:-/run/munge/munge.socket.2}
  [ -S "$socket" ] || missing_bind "slurm.conf is there, munge's socket $socket is not" "$(dirname "$socket")"
}

# The first word that is no option and names a .sh file is taken for the script; sbatch itself decides.
check_script() {
  local word
  [ "$command" = sbatch ] || return 0
  for word in "${arguments[@]}"; do
    case $word in
      -*) ;;
      *.sh)
        [ -r "$word" ] || missing_bind "$word is not visible in the container, whose folder is $(pwd)" "\$(pwd -P)"
        return 0
        ;;
    esac
  done
}

# What the container set, the job must not inherit: it starts on the host, and starts a container of its own.
scrub() {
  local name
  for name in $(compgen -e); do
    case $name in
      APPTAINER_CACHEDIR | APPTAINER_TMPDIR) ;;
      APPTAINER* | SINGULARITY*) unset "$name" ;;
    esac
  done
  case ${LD_LIBRARY_PATH:-} in *.singularity.d*) unset LD_LIBRARY_PATH ;; esac
  # shellcheck disable=SC2086  # a list of names
  unset PROMPT_COMMAND PS1 USER_PATH ${SAFE_IMAGE_SET:-} SAFE_IMAGE_SET
  export PATH=$host_path
}

explain_failure() {
  case $(cat "$errors") in
    *'ncompatible versions'* | *'rotocol version'*)
      submit_from_host "the image's Slurm client and the site's controller are of releases that do not speak to each other" ;;
    *'Munge encode failed'* | *'Munge decode failed'*)
      missing_bind "munge did not answer, or its key is another cluster's" /run/munge ;;
    *'DNS SRV lookup failed'* | *'establish a configuration source'*)
      missing_bind 'no usable slurm.conf in the container' /etc/slurm,/run/munge ;;
    *plugin* | *SPANK* | *spank* | *cli_filter* | *nclude*)
      submit_from_host "the site's Slurm loads something that is not in the image" ;;
  esac
}

arguments=("$@")
configuration=
if [ ! -x "$program" ]; then
  echo "$command: expected Slurm's client at $program, got nothing; set SAFE_SLURM_BIN to the folder of the site's" >&2
  exit 78
fi
case " $* " in *' --help '* | *' --usage '*) exec "$program" "$@" ;; esac
check_configuration
check_munge
check_script
image=${SAFE_IMAGE:-${APPTAINER_CONTAINER:-}}
[ -z "$image" ] || export SAFE_IMAGE=$image
if [ "$command" = srun ]; then
  scrub
  exec "$program" "$@"   # its output is the job's, live
fi
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
(scrub; exec "$program" "$@") 2>"$errors"
status=$?
cat "$errors" >&2
[ "$status" -eq 0 ] || explain_failure
exit "$status"
