"""optuna-dashboard behind an access guard."""
