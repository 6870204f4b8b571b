#!/bin/sh
# Run COMMAND where this host's /etc/aura-agent can't be seen: a test that read it would judge the host, not the code.
# Without the right to hide it, the tests that would read it are skipped, and say so (tests/machine.py).
directory=/etc/aura-agent
[ -e "$directory/config.toml" ] || exec "$@"
hide="mount -t tmpfs -o mode=0755 tmpfs $directory"
if [ "$(id -u)" = 0 ]; then
    unshare --mount sh -c "$hide" 2>/dev/null &&
        exec unshare --mount sh -c "$hide && exec \"\$@\"" sh "$@"
elif unshare --user --map-current-user --keep-caps --mount sh -c "$hide" 2>/dev/null; then
    exec unshare --user --map-current-user --keep-caps --mount sh -c \
        "$hide && exec setpriv --inh-caps=-all --ambient-caps=-all -- \"\$@\"" sh "$@"
fi
exec "$@"
