"""Stage 2: all edits of a share of the users, and its audit."""
