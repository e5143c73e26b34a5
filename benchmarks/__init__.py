"""What the documents claim, as commands that measure it again."""
