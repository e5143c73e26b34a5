"""Who runs trials: the budget, processes and their supervisor."""
