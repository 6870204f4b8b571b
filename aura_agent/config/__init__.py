"""What the operator has written down: models, how they are read from TOML, and the look-ups that complete them."""
