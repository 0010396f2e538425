"""A stand-in for EventStreams: a recording served over the same protocol, with faults on demand."""
