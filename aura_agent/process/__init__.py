"""Processes: starting a job's, reading what it writes, ending it with everything that it started."""
