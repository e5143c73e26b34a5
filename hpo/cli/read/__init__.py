"""The commands that read, and create nothing."""
