"""The heartbeats that a config declares, held against those that Aura has: the plan of ``sync``, and the verdicts of
``check --online``. Pure: what the config says and what Aura listed come in, plain values go out.
"""
