"""Conformance suites for methods and data sets, shipped so that the author of a plugin runs the same checks."""
