"""``python -m aura_agent``: the command line, where the installed script isn't at hand."""

from aura_agent.cli.main import main

main()
