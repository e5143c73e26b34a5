"""CPU kernels (Numba) for layers that PyTorch runs slowly."""
