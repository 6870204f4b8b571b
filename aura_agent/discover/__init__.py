"""What already runs on a host on a schedule, and how to put ``aura-run`` in front of it. Only ``host`` and ``changes``
touch files.
"""
