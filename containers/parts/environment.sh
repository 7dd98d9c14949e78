# shellcheck shell=sh
# Apptainer runs this without the host's variables, lets what is exported here win over them, and ignores `unset`.
export PATH="/opt/safe/bin:$PATH"
# What a host's modules set for its own Python and compilers does not fit the image's.
export PYTHONNOUSERSITE=1 PYTHONHOME="" PYTHONPATH="" CC=/usr/bin/gcc CXX=/usr/bin/g++
# The image is read-only, and a home folder on a cluster is slow and has a quota. What lies in this folder is run, bytecode
# and compiled kernels, so it must be nobody else's; a folder in which others may write is left to them.
safe_scratch="/tmp/safe-$(id -u)"
mkdir -m 700 "$safe_scratch" 2>/dev/null || true
case "$(stat -c '%u %A' "$safe_scratch" 2>/dev/null)" in
  "$(id -u) d"????-??-?) ;;
  *) safe_scratch="$(mktemp -d /tmp/safe-XXXXXXXX)" ;;
esac
export TRITON_CACHE_DIR="$safe_scratch/triton" TORCHINDUCTOR_CACHE_DIR="$safe_scratch/inductor"
export PYTHONPYCACHEPREFIX="$safe_scratch/bytecode" MPLCONFIGDIR="$safe_scratch/matplotlib"
export SAFE_IMAGE_SET="PYTHONNOUSERSITE PYTHONHOME PYTHONPATH CC CXX TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR \
PYTHONPYCACHEPREFIX MPLCONFIGDIR"
