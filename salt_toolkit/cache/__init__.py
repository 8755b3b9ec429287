"""The latent cache: what a frozen teacher says of every clip, computed once, proven, read at disk speed.

`shard` is the file format, `manifest` says whose latents they are, `writer` and `index` are the two
ends, `quantization` makes them small. docs/cache-format.md describes the format for other languages.
"""
