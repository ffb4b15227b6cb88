"""The item index and the search that can only write items that exist."""
