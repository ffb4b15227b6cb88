"""The whole loop on real servers."""
