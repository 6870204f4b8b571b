"""The embedded Aura: the hosted service's REST API on loopback, on SQLite, for development, tests and the demo.

    server.py    DevServer: one of them, in this process         threaded.py   the same, from a thread
    admin.py     what both let be done past the API              service.py    what every route works with
    listener.py  the port: HTTP, refusing, stopping              front.py      every request: faults, log, errors
    rules.py     when a heartbeat is late (pure)                 judge.py      the one timer that applies it
    probes.py    what a monitor's answer means (pure)            prober.py     the one timer that asks
    permissions.py  scope, role, team: who may do what (pure)    openapi.py    the API's own description (pure)
    routes/      one module per resource of the API              tables/       one module per table
    seed.py      reading a seed file                             planting.py   putting it into the database
    faults.py    trouble on demand                               received.py   what has come in

A new resource is a table in ``tables/`` (and a step in ``database.py``), a module in ``routes/`` (its ``RESOURCES``),
and its line in ``routes/__init__.py``; the published document follows.
"""
