"""Where a model is touched: hooks, the attention registry, buffers, decoding, and the recorder that owns them."""
