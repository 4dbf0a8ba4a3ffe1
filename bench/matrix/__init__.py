"""The matrix: what is compared. A YAML file becomes cells, and each cell is a tree of stages.

`MatrixSettings` is the file as it is written, `Matrix` is the checked result, and a `Cell` is one data set, one row (a
method with its settings) and one seed. Nothing here computes a stage.

Read `settings` and `rows` first (what people write), then `cell` and `matrix`, then `build` (from the one to the other)
and `load` (files and overrides). `inputs` checks data and weights before a run, `study` describes a figure over one
setting, and `resolved` writes cells back as a file. The shipped matrices are in `shipped/`.
"""
