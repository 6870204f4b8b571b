"""What a hook is told: a sentence, variables for a command, an object for a webhook. Pure.

Nothing of it is output of the job but what the caller hands in as such: what leaves the host is decided there.
"""

from datetime import UTC, datetime

from aura_agent.config.models import Config, Hook, Job
from aura_agent.outbox.hooks import HookCall, HookKind
from aura_agent.process.child import ExitStatus
from aura_agent.units import format_duration

VARIABLE = "AURA_HOOK"  # of all variables the first; an aura-run that finds it calls no hooks
_TEXT_OUTPUT_CHARS = 2000  # of the output in a text for people
_SENTENCES = {
    HookKind.FAILURE: "{job} on {host} failed: {reason}",
    HookKind.RECOVERY: "{job} on {host} has succeeded again",
    HookKind.LOST_RUN: "{job} on {host}: nobody knows how a run ended: {reason}",
    HookKind.UNDELIVERABLE: "{job} on {host}: pings don't get through: {reason}",
}
_IN_SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # docs.slack.dev, "Formatting message text"


def hook_of(job: Job, kind: HookKind) -> Hook | None:
    """Return what *job* has to be called for *kind*; a lost run is a failure where nothing else is said."""
    hook: Hook | None = getattr(job, kind)
    if hook is None and kind is HookKind.LOST_RUN:
        hook = job.on_failure
    return hook if hook is not None and (hook.command or hook.webhook) else None


def undeliverable_after_s(config: Config) -> dict[str, float]:
    """Return for each job that wants to be told of it how long a ping may wait (s)."""
    hooks = {name: job.on_undeliverable for name, job in config.jobs.items()}
    return {name: hook.after for name, hook in hooks.items() if hook is not None and (hook.command or hook.webhook)}


def sentence(call: HookCall, host: str) -> str:
    """Return what happened, in one line."""
    text = _SENTENCES[call.kind].format(job=call.job, host=host, reason=reason_of(call))
    if call.kind in (HookKind.FAILURE, HookKind.RECOVERY):
        text += f" (took {format_duration(call.duration_s)})"
    return " ".join(text.split())


def reason_of(call: HookCall) -> str:
    """Return why it is so; an aura-run that reports an exit code or a signal says no more of it."""
    if call.reason or call.kind is HookKind.RECOVERY:
        return call.reason
    return str(ExitStatus(code=None if call.signal else call.exit_code, signal=call.signal))


def variables(call: HookCall, host: str) -> dict[str, str]:
    """Return the environment variables that tell a command of *call*; what isn't known is left out."""
    facts = {
        "": call.kind.value,
        "_TEXT": sentence(call, host),
        "_JOB": call.job,
        "_HEARTBEAT": call.heartbeat,
        "_HOST": host,
        "_RUN_ID": call.run_id,
        "_OUTCOME": call.outcome,
        "_EXIT_CODE": _number(call.exit_code),
        "_SIGNAL": _number(call.signal),
        "_STARTED_AT": _stamp(call.started_at) or "",
        "_DURATION_S": f"{call.duration_s:.3f}" if call.outcome else "",
        "_ATTEMPTS": str(call.attempts) if call.outcome else "",
        "_REASON": reason_of(call),
    }
    return {VARIABLE + name: text for name, value in facts.items() if (text := value.replace("\0", ""))}


def payload(call: HookCall, host: str, output: str | None) -> dict[str, object]:
    """Return the object for a webhook; *output* is what may leave the host of the job's, None: nothing."""
    text = sentence(call, host).translate(_IN_SLACK)
    if output:
        text += f"\n```\n{output[-_TEXT_OUTPUT_CHARS:].translate(_IN_SLACK)}\n```"
    told: dict[str, object] = {
        "text": text,
        "hook": call.kind.value,
        "job": call.job,
        "heartbeat": call.heartbeat,
        "host": host,
        "run_id": call.run_id,
        "outcome": call.outcome,
        "exit_code": call.exit_code,
        "signal": call.signal,
        "started_at": _stamp(call.started_at),
        "duration_s": round(call.duration_s, 3),
        "attempts": call.attempts,
        "reason": reason_of(call),
    }
    return told if output is None else {**told, "output": output}


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _stamp(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
