#!/usr/bin/env bash
# Makes .venv for this checkout. The pinned dependencies (5 GB) are installed once per lock file and Python version under
# ${SAFE_CACHE:-~/.cache/safe}/env-<key>; .venv itself is small, holds the project and reads the dependencies from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
lock=requirements/lock.txt
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "make_venv: expected Python 3.11 or later, got $("$python" --version 2>&1); name another with PYTHON=/path/to/python" >&2
  exit 2
fi

key=$({ cat "$lock"; "$python" -c 'import sys, platform; print(sys.version, sys.prefix, platform.machine())'; } | sha256sum | cut -c1-16)
cache=${SAFE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/safe}
dependencies=$cache/env-$key
mkdir -p "$cache"

exec 9>"$cache/env-$key.lock"   # two checkouts may ask for the same environment at the same time
flock 9
if [ ! -e "$dependencies/complete" ]; then
  echo "Installing the pinned dependencies into $dependencies (a few minutes)"
  rm -rf "$dependencies"
  "$python" -m venv "$dependencies"
  "$dependencies/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
  touch "$dependencies/complete"
fi
flock -u 9

if [ "$(cat .venv/dependencies 2>/dev/null)" != "$dependencies" ]; then
  rm -rf .venv
  "$python" -m venv --without-pip .venv   # its own pip and setuptools would hide the pinned ones
  site_packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  shared=$("$dependencies/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$shared" >"$site_packages/dependencies.pth"
  for command in "$dependencies"/bin/*; do   # pytest, torchrun and others, run by this checkout's Python
    own=.venv/bin/${command##*/}
    [ ! -e "$own" ] || continue
    if head -n 1 "$command" | grep -aq "^#!$dependencies/bin/python"; then
      printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$PWD/.venv/bin/python" "$command" >"$own"
      chmod +x "$own"
    else
      ln -s "$command" "$own"
    fi
  done
  echo "$dependencies" >.venv/dependencies
fi

# What pyproject.toml says about packages and commands is read when the project is installed.
project=$(sha256sum <pyproject.toml)
if [ "$(cat .venv/project 2>/dev/null)" != "$project" ]; then
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  echo "$project" >.venv/project
fi
