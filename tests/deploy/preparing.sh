# What tests/systemd/setup.sh and tests/deploy/setup.sh share; sourced, not run. Everything that takes long is kept
# outside the repository, under a name that says what it was made from: a second call finds it and is quick.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$repo/.venv/bin/python
cache=${XDG_CACHE_HOME:-/var/tmp}/aura-agent-test

say() { printf '%s: %s\n' "$title" "$*"; }
die() { printf '%s: %s\n' "$title" "$*" >&2; exit 1; }

# Both need what only root may do, and packages under the names that Debian gives them.
need_root_on_debian() {
  [ "$(id -u)" = 0 ] || die "needs root: it installs packages and boots a container; run it with sudo"
  command -v apt-get >/dev/null && [ "$(. /etc/os-release && echo "$ID")" = debian ] ||
    die "needs Debian, this is $(. /etc/os-release && echo "${PRETTY_NAME:-something else}"); try it in a virtual machine"
  [ -x "$python" ] || die "no $python: run 'make setup' first"
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9 # two at a time would both build
}

# install_packages NAME...: only what is missing, so that a second call needs no network.
install_packages() {
  local missing=() name
  for name; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

stamp() { cat "$@" | sha256sum | cut -c 1-16; }

# download_wheels VERSION REQUIREMENTS...: sets $wheels to a directory of wheels for Python VERSION ("3.11"), whichever
# Python we have. Downloaded out here, where pip is set up for this machine; containers then install without a network.
download_wheels() {
  local version=$1
  shift
  wheels=$cache/wheels-$version-$(stamp "$@")
  [ -d "$wheels" ] && return
  say "downloading wheels"
  local fresh file
  fresh=$(mktemp -d "$cache/.wheels.XXXXXX")
  for file; do
    "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
      --python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none \
      --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_17_$(uname -m)" \
      --platform "manylinux2014_$(uname -m)" --platform "manylinux_2_12_$(uname -m)" --platform any \
      --dest "$fresh" --requirement "$file"
  done
  chmod 0755 "$fresh"
  mv "$fresh" "$wheels"
}
