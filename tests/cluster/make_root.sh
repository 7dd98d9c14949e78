#!/usr/bin/env bash
# Makes a Debian system with Slurm, munge and Apptainer in a folder: make_root.sh FOLDER MIRROR. Needs root.
set -euo pipefail

root=$1
mirror=$2
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
scratch=$(mktemp -d)
trap 'umount "$root/proc" 2>/dev/null || true; rm -rf "$scratch"' EXIT

# download SUITE PACKAGE: a package of another release than this machine's, without touching its own apt.
download() {
  local folder=$scratch/$1
  mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
  echo "deb [signed-by=$keyring] $mirror $1 main" >"$folder/sources.list"
  local options=(-qq -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State=$folder/state" -o "Dir::Cache=$folder/cache" -o Dir::State::status=/dev/null
    -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$folder" && apt-get "${options[@]}" download "$2")
}

rm -rf "$root"
download trixie debootstrap
dpkg-deb -x "$scratch"/trixie/debootstrap_*.deb "$scratch/tool"
DEBOOTSTRAP_DIR=$scratch/tool/usr/share/debootstrap "$scratch/tool/usr/sbin/debootstrap" \
  --variant=minbase --include=ca-certificates --keyring="$keyring" trixie "$root" "$mirror"

# Apptainer is in no stable release; sid's needs glibc 2.38 or later, which trixie has.
download sid apptainer
cp "$scratch"/sid/apptainer_*.deb "$root/root/apptainer.deb"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"   # no daemon is started by its installation
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
chroot "$root" apt-get -qq -o APT::Install-Recommends=false install -y slurm-wlm munge debootstrap squashfs-tools \
  squashfuse fuse3 fakeroot uidmap iproute2 procps /root/apptainer.deb
chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash dev
rm "$root/root/apptainer.deb"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
