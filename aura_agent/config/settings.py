"""What config, environment and command line say together: flag, then variable, then file, then default.

An empty variable counts as unset. The environment is a parameter; only files that were named are looked at. No text
of an error holds the content of a token's file, nor a URL.
"""

import os
import stat
from collections.abc import Callable, Mapping

from aura_agent.config.addresses import clean_base_url, judge_webhook
from aura_agent.config.models import ApiSettings
from aura_agent.config.shape import hide_secrets
from aura_agent.errors import ConfigError, Problem, TokenError
from aura_agent.other_writers import other_writer
from aura_agent.report.account import Account, account_of
from aura_agent.report.places import SYSTEM_CONFIG, socket_path, state_dir
from aura_agent.secret import Secret

__all__ = ["account_in", "base_url", "config_path", "find_token", "socket_path", "state_dir", "webhook_url"]

MAX_TOKEN_BYTES = 4096
CREDENTIAL = "aura-token"  # LoadCredential=aura-token:… in a systemd unit

Warn = Callable[[str], None]


def config_path(flag: str | None, environ: Mapping[str, str], *, default: str = SYSTEM_CONFIG) -> str | None:
    """Return the config file: *flag*, AURA_CONFIG, or *default* if that is readable; None if there is none.

    Raises ConfigError: a file that was named isn't there.
    """
    source, named = ("-c", flag) if flag is not None else ("AURA_CONFIG", environ.get("AURA_CONFIG") or None)
    if named is None:
        return default if os.access(default, os.R_OK) else None
    if not os.path.exists(named):
        raise ConfigError([Problem(f"no such file; correct {source}", file=hide_secrets(named) or '""')])
    return named


def base_url(api: ApiSettings, environ: Mapping[str, str]) -> str:
    """Return where the API is, without a slash at its end. Raises ConfigError."""
    said = environ.get("AURA_API_URL")
    source = "AURA_API_URL" if said else "api.base_url"
    try:
        return clean_base_url(said or api.base_url, allow_insecure=api.allow_insecure)
    except ValueError as exc:
        raise ConfigError([Problem(str(exc), key=source)]) from exc


def find_token(api: ApiSettings, environ: Mapping[str, str], *, warn: Warn | None = None) -> Secret | None:
    """Return the API token: AURA_TOKEN, AURA_TOKEN_FILE, token_file, token_env, or systemd's credential aura-token.

    None if none of these is given. *warn* hears of a file that others can read. Raises TokenError: what is given
    can't be read, or holds no token.
    """
    if environ.get("AURA_TOKEN"):
        return _token(environ["AURA_TOKEN"], "AURA_TOKEN")
    if environ.get("AURA_TOKEN_FILE"):
        return _token_in(environ["AURA_TOKEN_FILE"], "AURA_TOKEN_FILE", warn)
    if api.token_file is not None:
        return _token_in(api.token_file, "api.token_file", warn)
    if api.token_env is not None:
        if environ.get(api.token_env):
            return _token(environ[api.token_env], "api.token_env")
        return _credential(environ, warn)
    return _credential(environ, warn)


def account_in(api: ApiSettings, environ: Mapping[str, str]) -> Account | None:
    """Return how stores name the token and its API; None without a token. Raises ConfigError."""
    token = find_token(api, environ)
    return None if token is None else account_of(base_url(api, environ), token)


def webhook_url(said: str, *, allow_insecure: bool) -> Secret:
    """Return the URL of a hook's ``webhook``: itself, or what the file holds that it names. Raises ConfigError."""
    source, text = "webhook", said
    if said.startswith("file:"):
        path = said.removeprefix("file:")
        source = f"webhook: {hide_secrets(path)}"
        try:
            content, found = _read(path)
        except OSError as exc:
            raise _problem(source, f"can't be read: {exc.strerror}") from exc
        writer = other_writer(path, found)
        if writer:
            raise _problem(source, writer)
        text = content.decode("utf-8", "replace").strip()
    problem = judge_webhook(text, allow_insecure=allow_insecure)
    if problem:
        raise _problem(source, problem)
    return Secret(text)


def _credential(environ: Mapping[str, str], warn: Warn | None) -> Secret | None:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    path = os.path.join(directory, CREDENTIAL) if directory else ""
    return _token_in(path, "CREDENTIALS_DIRECTORY", warn) if path and os.path.exists(path) else None


def _token_in(path: str, source: str, warn: Warn | None) -> Secret:
    try:
        content, found = _read(path)
    except OSError as exc:
        raise _no_token(source, f"can't read {hide_secrets(path)}: {exc.strerror}") from exc
    writer = other_writer(path, found)
    if writer:
        raise _no_token(source, f"{hide_secrets(path)}: {writer}")
    if found.st_mode & stat.S_IROTH and warn is not None:
        warn(f"{source}: everybody on this host can read {hide_secrets(path)}; chmod 600 it")
    if len(content) > MAX_TOKEN_BYTES:
        raise _no_token(source, f"{hide_secrets(path)} is larger than 4 KiB: not a token; put the token alone into it")
    return _token(content.decode("utf-8", "replace"), f"{source}: {hide_secrets(path)}")


def _read(path: str) -> tuple[bytes, os.stat_result]:
    """Return the beginning of a regular file, and what it is. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        content = b""
        while len(content) <= MAX_TOKEN_BYTES and (part := os.read(opened, MAX_TOKEN_BYTES + 1)):
            content += part
        return content, found
    finally:
        os.close(opened)


def _token(text: str, source: str) -> Secret:
    text = text.strip()
    if not text:
        raise _no_token(source, "holds no token; create one in Aura under Account → API Tokens")
    # Printable ASCII without spaces: what an HTTP header takes.
    if not all("!" <= char <= "~" for char in text):
        raise _no_token(
            source, "not a token: it has spaces, several lines or other characters; put the token alone there"
        )
    return Secret(text)


def _problem(source: str, message: str) -> ConfigError:
    return ConfigError([Problem(message, key=source)])


def _no_token(source: str, message: str) -> TokenError:
    return TokenError([Problem(message, key=source)])
