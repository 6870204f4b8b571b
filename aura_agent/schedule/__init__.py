"""When is a job due: cron expressions, intervals, catch-up and overlap, all as pure functions of the time."""
