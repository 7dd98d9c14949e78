#!/usr/bin/env bash
# Downloads the wheels that a machine with a GPU may lack, for `python -m bench.gpu_run --wheels FOLDER` there:
#   scripts/gpu_wheels.sh [FOLDER]      default build/gpu-wheels, which git ignores; 5 MB
# Wheels for CPython 3.12 on x86-64 Linux, whatever runs here. Versions and hashes: requirements/gpu-wheels.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-build/gpu-wheels}
python=${PYTHON:-python3}
mkdir -p "$folder"
rm -f "$folder"/*.whl   # two versions of a package would stop the installation
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
  --implementation cp --python-version 3.12 \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --dest "$folder" --requirement requirements/gpu-wheels.txt
echo "$(find "$folder" -name '*.whl' | wc -l) wheels in $folder"
