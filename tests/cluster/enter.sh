#!/usr/bin/env bash
# Runs a command in a root folder of its own: enter.sh ROOT SCRATCH COMMAND..., under `unshare --mount --pid --fork`.
#
# What the command writes goes to SCRATCH, so that ROOT stays as it was made. BINDS holds lines SOURCE:TARGET. It is
# pivot_root and not chroot, because Apptainer refuses to make namespaces inside a chroot.
set -euo pipefail

root=$1
scratch=$2
shift 2
mkdir -p "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
cp --dereference /etc/resolv.conf etc/resolv.conf
while IFS=: read -r source target; do
  [ -n "$source" ] || continue
  mkdir -p ".$target"
  mount --bind "$source" ".$target"
  # An ordinary user has to get there, also where the path leads through what is root's home outside.
  while target=${target%/*} && [ -n "$target" ]; do chmod a+x ".$target"; done
done <<<"${BINDS:-}"
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
chmod 666 /dev/fuse
exec "$@"
