"""What the program tells about itself: log events, counters, metrics; and what it must never tell."""
