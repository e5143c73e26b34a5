"""hpo: hyperparameter studies of small neural networks whose every trial is a mean over rounds, with its spread."""

__version__ = "0.1.0"
