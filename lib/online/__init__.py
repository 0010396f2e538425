"""Stage 4: every edit of a Kafka topic gets exactly one verdict."""
