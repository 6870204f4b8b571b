"""The durable queue of pings: the rules that keep it true, and the SQLite store that keeps it safe."""
