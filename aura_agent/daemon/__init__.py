"""The daemon's parts: when jobs start, how they run, what others report, what is watched, what can be asked of it."""
