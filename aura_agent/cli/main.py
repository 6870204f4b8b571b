"""``aura-agent``: the command line. The only place that turns errors into lines and exit statuses.

Commands load when they are called: ``aura-agent status`` needs no scheduler, ``--help`` needs nothing.
"""

import os
import sys
from importlib import import_module
from io import TextIOWrapper

import click

from aura_agent import __version__
from aura_agent.cli.output import say
from aura_agent.errors import AuraError

# Command: (module, attribute, one line for --help). The order is the order of --help.
_COMMANDS = {
    "run": ("aura_agent.cli.run", "run", "The daemon, in the foreground."),
    "check": ("aura_agent.cli.check", "check", "Validate the config."),
    "status": ("aura_agent.cli.daemon", "status", "What runs, what ran, what waits and why."),
    "next": ("aura_agent.cli.next", "next_", "When a job will run, and why."),
    "history": ("aura_agent.cli.history", "history", "What ran."),
    "trigger": ("aura_agent.cli.daemon", "trigger", "Run a job now."),
    "pause": ("aura_agent.cli.daemon", "pause", "Pause a job."),
    "resume": ("aura_agent.cli.daemon", "resume", "End a job's pause."),
    "reload": ("aura_agent.cli.daemon", "reload", "Make the running daemon read its config anew."),
    "queue": ("aura_agent.cli.queue", "queue", "The outbox: what waits, delivering it now, dropping it."),
    "ping": ("aura_agent.cli.ping", "ping", "One ping by hand."),
    "sync": ("aura_agent.cli.sync", "sync", "Create or update the heartbeats that the config declares."),
    "discover": ("aura_agent.cli.discover", "discover", "Find this host's crontabs and timers, and wrap their jobs."),
    "api": ("aura_agent.cli.api", "api", "The REST API: monitors, checks, heartbeats, incidents, integrations."),
    "dev-server": ("aura_agent.cli.dev", "dev_server", "An embedded Aura on loopback."),
    "demo": ("aura_agent.cli.demo", "demo", "Everything at once on an embedded Aura, in one terminal."),
}


class _Lazy(click.Group):  # its methods' parameters are click's
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="aura-agent %(version)s")
def cli() -> None:
    """Pings an Aura heartbeat when a job has truly succeeded, and only then.

    Example: aura-agent check -c /etc/aura-agent/config.toml
    """


def main() -> None:
    """Run the command line; errors are lines on stderr, never a traceback."""
    if isinstance(sys.stdout, TextIOWrapper):  # None if it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have characters that its encoding lacks
    try:
        status = cli.main(standalone_mode=False)
    except click.Abort:
        _leave("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.ctx.get_help())
        sys.exit(0)
    except click.ClickException as problem:
        command = problem.ctx.command_path if isinstance(problem, click.UsageError) and problem.ctx else "aura-agent"
        _leave(f"{problem.format_message()} (see {command} --help)", problem.exit_code)
    except AuraError as problem:
        _leave(str(problem), problem.exit_status)
    except KeyboardInterrupt:
        _leave("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has left; Python would say so at exit.
        _discard_stdout()
        sys.exit(141)
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else _broken_stdout()
        _leave(f"{where}{problem.strerror or problem}", 1)
    except Exception as problem:
        if sys.excepthook is not sys.__excepthook__:
            raise  # the daemon's log takes it, with the traceback and without secrets
        _leave(_unforeseen(problem), 1)
    sys.exit(status if isinstance(status, int) else 0)


def _broken_stdout() -> str:
    """Return what names stdout in a message if it is what failed, and discard what it didn't take."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _discard_stdout()
        return "standard output: "
    return ""


def _discard_stdout() -> None:
    """Let stdout lead nowhere, so that Python doesn't fail once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _unforeseen(problem: Exception) -> str:
    """Return what to report of an error of ours; its own text is left out, as it may hold a secret."""
    traceback, where = problem.__traceback__, ""
    while traceback is not None:
        where = f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return f"an error that nobody foresaw: {type(problem).__name__} at {where}; please report it with the command"


def _leave(text: str, status: int) -> None:
    for line in text.splitlines():
        say(f"aura-agent: {line}", err=True)
    sys.exit(status)
