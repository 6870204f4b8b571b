"""The set-up of logging: where lines go, how they look, and that no secret is in them.

Lines go to stderr, since aura-run's stdout belongs to the job: JSON, unless a person looks at a terminal. What
libraries log through the standard library takes the same way from WARNING on; httpx and httpcore never get below that,
because their INFO and DEBUG lines hold ping URLs. A log line that can't be written is dropped: nothing that the program
does may fail because nobody can hear of it.
"""

import logging
import sys
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

from aura_agent.telemetry import events
from aura_agent.telemetry.redact import Redactor

Level = Literal["debug", "info", "warning", "error", "critical"]
_TALKATIVE = ("httpx", "httpcore", "asyncio", "uvicorn", "uvicorn.error", "uvicorn.access", "hpack")


def configure_logging(
    redactor: Redactor, *, level: Level = "info", as_json: bool | None = None, stream: TextIO | None = None
) -> None:
    """Send all logging of this process to *stream* (stderr), from *level* on; *as_json* None asks the stream.

    Can be called again, for another level.
    """
    stream = sys.stderr if stream is None else stream
    on_terminal = _is_terminal(stream)
    if as_json is None:
        as_json = not on_terminal
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exception_to_text,
            redactor,
            _json_renderer() if as_json else _console(colours=on_terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=False,  # a second call must reach loggers that exist already
    )
    _route_standard_logging()


def log_crashes() -> None:
    """Send exceptions that nobody caught the same way: a traceback's text may quote a URL."""
    sys.excepthook = _log_crash


class _Lines:
    """Makes loggers that write whole lines to one stream; the interface that structlog asks for."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __call__(self, *_: object) -> "_Lines":
        return self

    def msg(self, line: str) -> None:
        """Write *line*, or drop it: the disk behind a log may be full, and the reader of a pipe gone."""
        if self._stream is None:  # started with its stderr closed
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

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


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _log_crash(kind: type[BaseException], exc: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
        return
    structlog.get_logger().critical(events.AGENT_CRASHED, exc_info=(kind, exc, traceback))
