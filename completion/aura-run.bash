# Completion of aura-run for bash: in /usr/share/bash-completion/completions/aura-run, or sourced from ~/.bashrc.

_aura_run() {
    local flags='--no-overlap -q --quiet --no-wait -h --help --version'
    local valued='-H --heartbeat --ping-url -j --job -c --config --timeout --kill-after --retries --retry-delay
        --success-codes --attach --tail-bytes --wait'
    local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} at
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
            --) _aura_run_command $((at + 1)) && return ;;
            = | :) ((at++)) ;; # bash splits --option=value and file:PATH at these
            -*) [[ " ${valued//$'\n'/ } " == *" ${COMP_WORDS[at]} "* && ${COMP_WORDS[at + 1]} != = ]] && ((at++)) ;;
            *) _aura_run_command "$at" && return ;;
        esac
    done
    if ((at == COMP_CWORD)) && [[ $word != [=:] ]]; then
        [[ $word != -* ]] && _aura_run_command "$at" && return
        mapfile -t COMPREPLY < <(compgen -W "$flags $valued --" -- "$word")
        return
    fi
    [[ $word == [=:] ]] && word=
    [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD - 2]}
    case $option in
        --attach) mapfile -t COMPREPLY < <(compgen -W 'none summary output' -- "$word") ;;
        --ping-url) COMPREPLY=(file:) && compopt -o nospace 2>/dev/null ;;
        -c | --config | :) mapfile -t COMPREPLY < <(compgen -f -- "$word") && compopt -o filenames 2>/dev/null ;;
    esac
}

# The command, and its arguments as its own completion has them.
_aura_run_command() {
    if declare -F _command_offset >/dev/null; then
        _command_offset "$1"
    elif ((COMP_CWORD == $1)); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}") && compopt -o filenames 2>/dev/null
    fi
    return 0
}

complete -F _aura_run aura-run
