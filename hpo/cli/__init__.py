"""The command line: arguments in, calls out, text and JSON back."""
