"""Studies in Python: the same objects as the command line's."""

import warnings

# Optuna asks tqdm for a bar that a notebook without ipywidgets has not, and hpo shows its own.
warnings.filterwarnings("ignore", message="IProgress not found")
