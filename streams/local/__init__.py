"""Starts real Kafka, Redis and Triton servers, and our workers, on this machine's loopback.

For development, tests and the demo; production runs the servers of k8s/.
"""
