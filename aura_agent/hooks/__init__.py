"""Hooks: telling people at once what happened to a job, by a command or a webhook."""
