"""Results: what the store holds of finished cells. Nothing here computes a stage.

`read_cell` and `read_matrix` return a `CellResult` for each cell; reports, sweeps and trackers build on these. `table`
returns the paper's table as data. `write_record` keeps one file for each cell with its settings, seeds, code and
results, so that a number can still be explained when the store has gone.

Read `cells` first, then `table`, then `record`. `shown` picks curves and pictures for a tracker.
"""
