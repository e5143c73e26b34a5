"""Steps of networks recorded on a GPU, as CUDA graphs, and replayed."""
