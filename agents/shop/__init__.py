"""A simulated shop: a catalogue, and shoppers with intents that drift."""
