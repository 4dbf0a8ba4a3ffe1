"""Data sets: read once into a memory-mapped table of square grey images, and split by patient.

`dataset` has the base class `Dataset` and the `TableWriter`; `split` has the stages `Split` and `Train`. Read these
two first. `images`, `picture_paths`, `csv_file`, `csv_listing` and `bulk_decode` are the tools that a data set reads
its source with. `source_checks` and `describe` look at a data set without computing it. Each kind of data set is a
module or package in `kinds`.
"""
