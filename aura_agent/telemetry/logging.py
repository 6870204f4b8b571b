"""The set-up of logging: where lines go, how they look, and that no secret is in them.

Lines go to stderr, since aura-run's stdout belongs to the job: JSON, unless a person looks at a terminal. What
libraries log through the standard library takes the same way from WARNING on; httpx and httpcore never get below that,
because their INFO and DEBUG lines hold ping URLs. Writing is ``log_writer``'s: no line blocks or fails its caller.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

from aura_agent.telemetry import events
from aura_agent.telemetry.log_writer import LogStream, LogWriter
from aura_agent.telemetry.redact import Redactor

Level = Literal["debug", "info", "warning", "error", "critical"]
_TALKATIVE = ("httpx", "httpcore", "asyncio", "uvicorn", "uvicorn.error", "uvicorn.access", "hpack")


def configure_logging(
    redactor: Redactor, writer: LogWriter, *, level: Level = "info", as_json: bool | None = None
) -> None:
    """Send all logging of this process through *writer*, from *level* on; *as_json* None: unless stderr is a terminal.

    Can be called again, for another level.
    """
    on_terminal = is_terminal(sys.stderr)
    if as_json is None:
        as_json = not on_terminal
    after_context: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_to_text,
        redactor,
        _json_renderer() if as_json else _console(colours=on_terminal),
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *after_context],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(writer),
        cache_logger_on_first_use=False,  # a second call must reach loggers that exist already
    )

    def describe_gap(count: int) -> str:
        event: Any = {"event": events.LOG_DROPPED, "count": count}
        for processor in after_context:
            event = processor(None, "warning", event)
        return str(event)

    writer.describe_gap = describe_gap
    _route_standard_logging()


def open_stderr() -> LogWriter:
    """Return a writer to stderr; to nothing if we were started without one."""
    return LogWriter(None if sys.stderr is None else sys.stderr.fileno())


def take_stderr(writer: LogWriter, redactor: Redactor) -> None:
    """Send what anything prints to stderr through *writer*, and exceptions that nobody caught to the log.

    For a process that must never wait for the reader of its stderr. A traceback's text may quote a URL: the log's
    processors redact it.
    """
    sys.stderr = LogStream(writer, redactor.text, is_terminal=is_terminal(sys.stderr))
    warnings.showwarning = _log_warning
    sys.excepthook = _log_crash
    sys.unraisablehook = _log_ignored
    threading.excepthook = _log_thread_crash


class _Lines:
    """Makes loggers that write whole lines with one writer; the interface that structlog asks for."""

    def __init__(self, writer: LogWriter) -> None:
        self._write_line = writer.write_line

    def __call__(self, *_: object) -> "_Lines":
        return self

    def msg(self, line: str) -> None:
        self._write_line(line)

    log = debug = info = warn = warning = err = error = fatal = failure = critical = exception = msg


class _ToStructlog(logging.Handler):
    """Takes a library's record to the log of this program."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # arguments that don't fit their format are the library's mistake
            text = str(record.msg)
        facts: dict[str, Any] = {"library": record.name, "text": text}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        log = structlog.get_logger()
        (log.error if record.levelno >= logging.ERROR else log.warning)(events.LIBRARY_WARNED, **facts)


def _route_standard_logging() -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _ToStructlog):
            root.removeHandler(handler)
    root.addHandler(_ToStructlog(logging.WARNING))
    root.setLevel(logging.WARNING)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _exception_to_text(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn exc_info into a plain traceback, never one that shows local variables."""
    if "exc_info" not in event:
        return event
    formatted: MutableMapping[str, Any] = structlog.processors.format_exc_info(logger, method, event)
    return formatted


def _json_renderer() -> Callable[[object, str, MutableMapping[str, Any]], str]:
    """Return what renders one line, the time and the event first; what comes to it is plain data already."""
    import json

    encode = json.JSONEncoder(default=str).encode

    def render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
        return encode({**first, **event})

    return render


def _console(*, colours: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colours, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _log_crash(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
        return
    structlog.get_logger().critical(events.AGENT_CRASHED, exc_info=(kind, exc, traceback))


def _log_thread_crash(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return
    name = args.thread.name if args.thread is not None else None
    problem = (args.exc_type, args.exc_value, args.exc_traceback)
    structlog.get_logger().critical(events.AGENT_CRASHED, thread=name, exc_info=problem)


def _log_ignored(args: "sys.UnraisableHookArgs") -> None:
    problem = (args.exc_type, args.exc_value, args.exc_traceback)
    structlog.get_logger().error(events.EXCEPTION_IGNORED, text=args.err_msg, exc_info=problem)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  # as warnings.showwarning has it
    line: str | None = None,  # noqa: ARG001
) -> None:
    where = f"{filename}:{lineno}"
    structlog.get_logger().warning(
        events.LIBRARY_WARNED, library="warnings", text=f"{category.__name__}: {message}", where=where
    )
