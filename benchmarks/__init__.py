"""Benchmarks: what the harness itself costs.

Each program measures one promise and exits with 1 if it is broken: `rerun` (a finished matrix once more), `training`
(against a bare loop), `memory` (as a data set grows), `decode` (the table of pictures), `frechet` and `neighbours`
(against the usual libraries). `common.Figure` is one line of their tables. Read `common`, then any program; README.md
has the figures. The programs need an idle machine, so they are not tests.
"""
