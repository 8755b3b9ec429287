"""Tensors by id, in shards that survive kills; no torch and no recipe."""
