"""Studies in Python: the same objects as the command line's."""
