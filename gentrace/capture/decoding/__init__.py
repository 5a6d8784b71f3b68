"""Decoding: what generate does around the forwards, and what becomes of the logits."""
