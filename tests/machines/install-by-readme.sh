#!/bin/sh
# Install as the README tells root to, on a machine that may be thrown away and under the strictest umask that people
# have; then every user can run aura-run, and none but root can read the token. Before that, without python3-venv, make
# names the package.
set -eu
cd "$(dirname "$0")/../.."

# Debian without python3-venv has no ensurepip: make says so.
ensurepip=$(python3 -c 'import ensurepip; print(ensurepip.__path__[0])')
mount -t tmpfs tmpfs "$ensurepip"
make setup 2>&1 | grep 'apt install python3-venv' || { echo "make doesn't name the missing package" >&2; exit 1; }
umount "$ensurepip"

umask 077
commands=$(mktemp)
awk '/Then, as root:/ {found = 1} found && /^```$/ {exit} show {print} found && /^```sh$/ {show = 1}' README.md > "$commands"
grep -q 'pip install' "$commands" || { echo "the README's commands are not where they were" >&2; exit 1; }
echo aura_live_token | sh -eux "$commands"

as_other() { setpriv --reuid=tester --regid=tester --init-groups env HOME=/home/tester "$@"; }
must() { printf '%s\n' "$*"; "$@" || { echo "FAILED ($?): $*" >&2; exit 1; }; }
must as_other sh -c '/usr/local/bin/aura-run -H beat --no-wait -- sh -c "exit 3"; test $? = 3'
must as_other /usr/local/bin/aura-agent --version
must as_other sh -c '! cat /etc/aura-agent/token 2>/dev/null'
must as_other test -r /etc/aura-agent/config.toml
must /usr/local/bin/aura-agent check
echo "installed as the README says: every user can run it"
