#!/bin/bash
# Run COMMAND in a fresh clone on a bare Debian of another release, with its own Python, as an ordinary user or as root.
# Usage: test-elsewhere.sh [RELEASE [USER [COMMAND...]]]; default: trixie tester make test
# TZDATA=VERSION gives that machine the time zones of another day (a version of the package tzdata, such as 2024.2).
# Root on Debian; quick the second time. What it makes is under $XDG_CACHE_HOME or /var/tmp; remove it at will.
set -euo pipefail
title=tests/machines/test-elsewhere.sh
# shellcheck source=tests/deploy/preparing.sh
. "$(dirname "$0")/../deploy/preparing.sh"

release=${1:-trixie} user=${2:-tester}
shift $(($# < 2 ? $# : 2))
[ $# -gt 0 ] || set -- make test
need_root_on_debian
install_packages mmdebstrap iproute2

packages=python3,python3-venv,make,git
root=$cache/machine-$release-$(printf %s "$packages" | sha256sum | cut -c 1-16)
if [ ! -d "$root" ]; then
  say "making a bare Debian $release in $root"
  rm -rf "$root.new"
  mmdebstrap --quiet --variant=minbase --include="$packages" "$release" "$root.new"
  chroot "$root.new" useradd --create-home tester
  mv "$root.new" "$root"
fi
version=$(chroot "$root" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
download_wheels "$version" "$repo/requirements/dev.txt"
zones=
if [ -n "${TZDATA:-}" ]; then
  zones=$cache/tzdata-$TZDATA
  if [ ! -d "$zones" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$zones.new" "tzdata==$TZDATA"
    chmod 0755 "$zones.new"
    mv "$zones.new" "$zones"
  fi
fi
exec 9>&- # from here on nothing shared is written

say "$release, Python $version${zones:+, tzdata $TZDATA}, as $user: $*"
# The machine has no network but loopback, sees nothing of ours but a fresh clone and the wheels, and is thrown away.
scratch=$(mktemp -d "$cache/.scratch.XXXXXX")
trap 'rmdir "$scratch"' EXIT
export root repo wheels user scratch zones
unshare --mount --pid --fork --kill-child --net --uts --ipc bash -euc '
  ip link set lo up
  hostname elsewhere
  mount -t tmpfs tmpfs "$scratch"
  mkdir "$scratch/upper" "$scratch/work" "$scratch/machine"
  mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/machine"
  cd "$scratch/machine"
  mount -t proc proc proc
  mount -t sysfs -o ro sysfs sys
  mount -t tmpfs -o mode=0755 tmpfs dev
  for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  mount -t tmpfs -o mode=1777 tmpfs tmp
  mount -t tmpfs -o mode=1777 tmpfs var/tmp
  mount -t tmpfs -o mode=1777 tmpfs run
  mount -t tmpfs tmpfs mnt
  mkdir mnt/wheels mnt/home
  if [ -n "$zones" ]; then
    mkdir -p usr/share/zoneinfo
    mount --bind "$zones/tzdata/zoneinfo" usr/share/zoneinfo
  fi
  mount --bind "$wheels" mnt/wheels
  if [ "$user" = root ]; then home=root; else home=home/$user; fi
  mount --bind mnt/home "$home"
  [ -e etc/hosts ] || printf "127.0.0.1 localhost\n::1 localhost\n" > etc/hosts # an installer or a runtime makes it
  git -c safe.directory="*" clone --quiet "$repo" "$home/aura-agent"
  chroot . chown -R "$user": "/$home"
  exec chroot --userspec="$user" --groups="" . /usr/bin/env -i HOME="/$home" USER="$user" \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/mnt/wheels \
    sh -c "umask 022; cd ~/aura-agent; exec \"\$@\"" sh "$@"
' bash "$@"
