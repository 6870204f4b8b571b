"""aura-run: runs a command as if it had been run alone, and reports how it ended.

Before the job runs, only this package's ``main``, ``options`` and ``job`` are imported, and builtins: what takes time
(the config, the database, HTTP) waits until the job has started or ended. Nothing here prints to stdout, and nothing
about monitoring changes the exit status.
"""
