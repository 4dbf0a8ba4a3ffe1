"""Finds methods and data sets, and looks them up by name.

`methods()` and `datasets()` return the usable classes; `parse_method` and `parse_dataset` turn the text of a matrix
file into an object. A plugin that cannot be used is a `Broken` entry and does not stop the others.

Read in this order: discovery, registry.
"""
