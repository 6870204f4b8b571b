"""``aura-agent dev-server``: an embedded Aura in the foreground, until SIGTERM or Ctrl-C."""

import json

import click

_EXAMPLE = """\b
Examples:
  aura-agent dev-server
  aura-agent dev-server --port 8788 --db aura.db --seed seed.toml
"""


@click.command("dev-server", epilog=_EXAMPLE)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1; default: a free one.")
@click.option("--db", metavar="FILE", help="Keep everything in this SQLite file; default: in memory.")
@click.option(
    "--seed", "seed_file", metavar="FILE", help="What exists from the start (TOML): users, tokens, heartbeats, …"
)
@click.option("--no-rate-limit", is_flag=True, help="Answer more than 60 requests a minute.")
@click.option("--list-ping-urls", is_flag=True, help="Show each heartbeat with its ping URL, in listings too.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON: `base_url`, `token`.")
def dev_server(
    port: int, db: str | None, seed_file: str | None, *, no_rate_limit: bool, list_ping_urls: bool, as_json: bool
) -> None:
    """Run an embedded Aura on loopback: the same API, no account needed.

    Prints its base URL and a new read & write token. SIGTERM and Ctrl-C end it. docs/dev-server.md has an example of
    a seed.
    """
    import asyncio

    from aura_agent.devserver.seed import load_seed
    from aura_agent.devserver.server import DevServer

    seed = None if seed_file is None else load_seed(seed_file)
    server = DevServer(port=port, db=db, seed=seed, rate_limit=not no_rate_limit, list_ping_urls=list_ping_urls)

    def announce() -> None:
        if as_json:
            click.echo(json.dumps({"base_url": server.base_url, "token": server.token}))
        else:
            click.echo(f"An embedded Aura is at {server.base_url} with the read & write token {server.token}")

    from aura_agent.devserver.running import run_until_stopped

    asyncio.run(run_until_stopped(server, announce))
