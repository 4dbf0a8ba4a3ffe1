"""Conformance suites for methods and data sets. They are shipped, so that the author of a plugin can run them too.

`METHOD_CHECKS` and `DATASET_CHECKS` are lists of checks, each of which raises an error that names the broken rule.
`toy_task` and `ToyDataset` are small inputs for tests.

Read in this order: toy, methods, datasets, other_process.
"""
