"""Layer 2: the composition root. Settings, ports, workers, the HTTP edge, the command line."""
