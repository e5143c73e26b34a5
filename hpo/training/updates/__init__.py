"""How networks' weights are moved: by which optimizer, at which rate, clipped or not, and averaged or not."""
