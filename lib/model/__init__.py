"""Stage 3: look, train, prove."""
