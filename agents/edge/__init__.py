"""The HTTP edge: actions in, recommendations out."""
