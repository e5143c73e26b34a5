"""The commands that let others in."""
