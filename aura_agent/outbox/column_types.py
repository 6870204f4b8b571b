"""Repair values of a wrong type: SQLite refuses every later write to a row of a STRICT table that holds one.

SQLite checks types as it writes, so only a damaged disk or another tool leaves such a value. It becomes NULL, or the
column's default, or a number that no check accepts (``aura_agent.outbox.damage``), and the row can be written again.
"""

import sqlite3
from collections.abc import Sequence

_NO_NUMBER = -(2**63 - 1)
_STORAGE = {"INTEGER": ("integer",), "REAL": ("real", "integer"), "TEXT": ("text",), "BLOB": ("blob",)}


def repair_types(
    connection: sqlite3.Connection, table: str, condition: str = "TRUE", values: Sequence[int] = ()
) -> int:
    """Replace what has a wrong type in the rows of *table* that *condition* names; return how many rows that were."""
    columns = connection.execute("SELECT * FROM pragma_table_info(?) WHERE pk = 0", (table,)).fetchall()
    wrong = {column["name"]: _is_wrong(column) for column in columns if column["type"] in _STORAGE}
    changes = [
        f"{column['name']} = iif({wrong[column['name']]}, {_neutral(column)}, {column['name']})"
        for column in columns
        if column["name"] in wrong
    ]
    if not changes:
        return 0
    query = f"UPDATE {table} SET {', '.join(changes)} WHERE {condition} AND ({' OR '.join(wrong.values())})"
    return connection.execute(query, tuple(values)).rowcount


def _is_wrong(column: sqlite3.Row) -> str:
    allowed = (*_STORAGE[column["type"]], *(() if column["notnull"] else ("null",)))
    return f"typeof({column['name']}) NOT IN ({', '.join(map(repr, allowed))})"


def _neutral(column: sqlite3.Row) -> str:
    if column["dflt_value"] is not None:
        return str(column["dflt_value"])
    if column["type"] == "REAL":
        return "-1.0"
    if not column["notnull"]:
        return "NULL"
    return {"INTEGER": str(_NO_NUMBER), "TEXT": "''", "BLOB": "x''"}[column["type"]]
