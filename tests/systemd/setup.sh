#!/bin/bash
# Makes what tests/systemd boots: Debian 12 with systemd, and aura-agent installed in it as docs/installing.md tells.
# Root on Debian; quick the second time. What it makes is under $XDG_CACHE_HOME or /var/tmp; remove it at will.
set -euo pipefail
title=tests/systemd/setup.sh
# shellcheck source=tests/deploy/preparing.sh
. "$(dirname "$0")/../deploy/preparing.sh"

need_root_on_debian
install_packages mmdebstrap systemd-container
download_wheels 3.11 "$repo/requirements/runtime.txt"

packages=systemd,systemd-sysv,dbus,python3,python3-venv,procps,iproute2,kmod,sudo,cron
base=$cache/bookworm-$(printf %s "$packages" | sha256sum | cut -c 1-16)
if [ ! -d "$base" ]; then
  say "making a Debian 12 with systemd in $base"
  rm -rf "$base.new"
  mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$base.new"
  mv "$base.new" "$base"
fi

# The dependencies, then the agent itself: only the latter changes from one call to the next.
root=$cache/root-$(stamp "$repo/requirements/runtime.txt" <(printf %s "$packages"))
if [ ! -d "$root" ]; then
  say "installing the dependencies into $root"
  rm -rf "$root.new"
  cp -a --reflink=auto "$base" "$root.new"
  chroot "$root.new" python3 -m venv /opt/aura-agent
  cp -r "$wheels" "$root.new/opt/wheels"
  cp "$repo/requirements/runtime.txt" "$root.new/opt/wheels/"
  chroot "$root.new" /opt/aura-agent/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --no-index --find-links /opt/wheels --require-hashes -r /opt/wheels/runtime.txt
  rm -r "$root.new/opt/wheels"
  # Users that jobs run as, and one who may not report.
  chroot "$root.new" useradd --system --create-home backup-user
  chroot "$root.new" useradd --system --create-home stranger
  mv "$root.new" "$root"
fi

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
(cd "$repo" && "$python" -m hatchling build -t wheel -d "$built" >/dev/null 2>&1) || die "the wheel can't be built"
wheel=$(basename "$built"/*.whl)
cp "$built/$wheel" "$root/opt/"
chroot "$root" /opt/aura-agent/bin/pip install --quiet --disable-pip-version-check --root-user-action=ignore \
  --no-index --no-deps --force-reinstall "/opt/$wheel"
rm "$root/opt/$wheel"
chroot "$root" sed -i '1s/python[0-9.]*$/& -I/' /opt/aura-agent/bin/aura-run
install -D -m 0644 "$repo/systemd/aura-agent.service" "$root/etc/systemd/system/aura-agent.service"
ln -sfn "$root" "$cache/root"
say "ready: $root"
