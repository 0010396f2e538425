"""Stage 2: all edits of a share of the users, and the proof that it is what it says."""
