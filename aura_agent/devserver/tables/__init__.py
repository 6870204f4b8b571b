"""The tables, one module each: plain functions over a connection. They know rows and rules, not HTTP."""
