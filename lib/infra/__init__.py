"""What the stages run on: Java, jars, Spark and a Kafka broker."""


class InfraError(RuntimeError):
    """Java, a jar, Spark or Kafka is missing or does not start."""
