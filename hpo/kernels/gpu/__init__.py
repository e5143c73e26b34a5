"""GPU kernels (Triton) for R stacked networks: layers and losses of all rounds at once.

Maps lie in memory as (R, C, N, H, W), R rounds, C channels, N images: each channel of a round is one run of memory,
and for a network that sees (N, C, H, W) under vmap this is only a stride. All sizes are constants of the kernels, so
that no index is divided by a number unknown to the compiler. Nothing is added up by atomics: a result is the same, to
the last bit, whenever and beside whatever else it is computed.

Where Triton is not installed only fuse.py can be imported; its `missing` says so.
"""
