"""Layer 1: sockets. Kafka, Redis and Triton clients, windows and watermarks; no torch."""
