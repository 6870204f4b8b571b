"""What a run has to say, and how it gets to the outbox: the record's line, the spool, the count of boots.

Imported by aura-run before and right after the job: builtins and ``os`` only.
"""
