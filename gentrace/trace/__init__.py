"""What was seen, frozen: tokens, layers, the trace and its file."""
