"""What the stages run on: Java, jars, Spark, a Kafka broker, and a cluster of them."""
