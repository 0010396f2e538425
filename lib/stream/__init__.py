"""Stage 1: from Server-Sent Events to a recording, and out over TCP."""
