"""Other streaming frameworks at our windowed job, each in a Python environment of its own."""
