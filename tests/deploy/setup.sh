#!/bin/bash
# Makes what the container tests need: podman, a base image with Debian's Python, wheels, and the manifests' validator.
# Root on Debian; quick the second time. What it makes is under $XDG_CACHE_HOME or /var/tmp; remove it at will.
set -euo pipefail
title=tests/deploy/setup.sh
# shellcheck source=tests/deploy/preparing.sh
. "$(dirname "$0")/preparing.sh"

need_root_on_debian
install_packages mmdebstrap podman buildah runc catatonit netavark iptables
download_wheels 3.11 "$repo/requirements/runtime.txt" "$repo/requirements/build.txt"
ln -sfn "$wheels" "$cache/wheels"

# No registry of images is asked: the base is made from Debian's packages, as the default base image is.
packages=python3-minimal,libpython3-stdlib,python3-venv,ca-certificates
base=$cache/base-$(printf %s "$packages" | sha256sum | cut -c 1-16).tar
if [ ! -f "$base" ]; then
  say "making a base image in $base"
  mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$base.new.tar"
  mv "$base.new.tar" "$base"
fi
ln -sfn "$base" "$cache/base.tar"

tools=$cache/tools-$(stamp "$repo/tests/deploy/requirements.txt")
if [ ! -x "$tools/bin/kubernetes-validate" ]; then
  say "installing kubernetes-validate into $tools"
  "$python" -m venv --clear "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
    -r "$repo/tests/deploy/requirements.txt"
fi
ln -sfn "$tools" "$cache/tools"
say "ready: $cache"
