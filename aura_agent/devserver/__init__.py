"""The embedded Aura: the hosted service's REST API on loopback, on SQLite, for development, tests and the demo.

    server.py    DevServer: one of them, in this process         threaded.py   the same, from a thread
    listener.py  the port: HTTP, refusing, stopping              front.py      every request: faults, log, errors
    rules.py     when a heartbeat is late (pure)                 judge.py      the one timer that applies it
    routes/      one module per resource of the API              tables/       one module per table
    faults.py    trouble on demand                               received.py   what has come in

A new resource is a table in ``tables/`` (and a step in ``database.py``), a module in ``routes/``, and its line in
``routes/__init__.py``.
"""
