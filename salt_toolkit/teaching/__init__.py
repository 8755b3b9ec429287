"""What frozen teachers have in common: finding, proving and loading weights, choosing latents, aligning grids.

`config`, `files` and `identity` are free of torch; `encoder`, `loading` and `alignment` need it.
"""
