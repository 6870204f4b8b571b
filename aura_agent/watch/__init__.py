"""What the agent looks at instead of running it, and what it expects to find after a run.

Each probe answers with a Condition. They read files and the process table and may block on a slow file system: the
daemon calls them in a thread.
"""
