"""Texts: how they are written, escaped for where they are shown, kept free of secrets, read and saved."""
