"""Sweeps: an Optuna study over the settings of one method, selected on val."""
