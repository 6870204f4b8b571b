# Completion of aura-run for fish: in /usr/share/fish/vendor_completions.d or ~/.config/fish/completions.

complete -c aura-run -s H -l heartbeat -x -d 'The heartbeat to ping: id or name'
complete -c aura-run -l ping-url -x -a 'file:' -d 'Ping the URL in this file'
complete -c aura-run -s j -l job -x -d 'Take everything from this job of the config'
complete -c aura-run -s c -l config -r -F -d 'The config'
complete -c aura-run -l timeout -x -d 'SIGTERM to the whole process tree after this'
complete -c aura-run -l kill-after -x -d 'SIGKILL so long after that'
complete -c aura-run -l retries -x -d 'Run again on failure, so often'
complete -c aura-run -l retry-delay -x -d 'Wait before each retry'
complete -c aura-run -l no-overlap -d 'If it still runs: don\'t run, exit 75'
complete -c aura-run -l success-codes -x -d 'Exit codes that count as success'
complete -c aura-run -s q -l quiet -d 'Print the output only if the job fails'
complete -c aura-run -l attach -x -a 'none summary output' -d 'What goes with the ping'
complete -c aura-run -l tail-bytes -x -d 'How much of the output'
complete -c aura-run -l no-wait -d 'Leave the ping to the outbox'
complete -c aura-run -l wait -x -d 'Deliver for at most this long'
complete -c aura-run -s h -l help -d 'Print help'
complete -c aura-run -l version -d 'Print the version'

# The command, and its arguments as its own completion has them.
set -l valued -H --heartbeat --ping-url -j --job -c --config --timeout --kill-after --retries --retry-delay \
    --success-codes --attach --tail-bytes --wait
complete -c aura-run -x -a "(__fish_complete_subcommand $valued)"
