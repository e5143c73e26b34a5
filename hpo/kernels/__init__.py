"""Kernels for layers that PyTorch runs slowly: on a CPU (Numba), and in gpu/ on a GPU (Triton)."""
