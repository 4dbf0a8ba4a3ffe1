"""The benchmark harness: it augments rare classes, trains a classifier on the result, and scores it.

A matrix of data sets and methods becomes a graph of stages. A `Stage` (`bench.pipeline.stage`) is a frozen
configuration with a key, and a `Store` (`bench.store.store`) computes each key once. The packages follow the paper's
pipeline. Read `pipeline`, `store` and `data` first, then `augment`, `classifier` and `evaluation`, and last `matrix`,
`run` and `cli`. Authors of methods and data sets need only `bench.contract`.
"""
