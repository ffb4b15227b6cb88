"""Learning from reward groups."""
