"""Fragments to triangles: pure functions over tensors that know nothing of models, hooks or files."""
