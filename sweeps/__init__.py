"""Sweeps: tune the settings of one method with Optuna, selected on val.

A sweep file (`SweepSettings`) names a matrix, one row of it, and what to vary. `run_sweep` asks Optuna for settings,
computes the stages that measure them, and tells Optuna the numbers. Test is never read: a sweep that saw it would tune
on the numbers that the paper reports.

Read `settings` first, then `study` (the loop), then `outcome` (tables, and the best setting as a matrix file).
`references` says which stages clean-up must keep.
"""
