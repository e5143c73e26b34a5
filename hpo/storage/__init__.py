"""Optuna's storage on SQLite and PostgreSQL: locked, retried, in few round trips."""
