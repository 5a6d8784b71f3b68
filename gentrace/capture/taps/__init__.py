"""The taps: how attention is seen, whoever computes it, and brought into one form."""
