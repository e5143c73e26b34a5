"""R networks trained together: looped, stacked, or as a CUDA graph."""
