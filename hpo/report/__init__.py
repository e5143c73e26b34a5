"""Figures, HTML and Markdown of a study."""
