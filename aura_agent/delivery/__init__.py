"""From the outbox to the ping URL: what an answer means, when to try again, where the URL comes from."""
