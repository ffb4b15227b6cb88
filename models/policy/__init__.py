"""Learning from reward groups: advantages, objectives, ratios."""
