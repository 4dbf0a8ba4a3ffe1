"""MIMIC-CXR-LT and NIH-CXR-LT, read from the folders as they are published.

`releases` lists what is known of each release, `files` finds its label files, `labels` reads them into arrays, `choice`
selects classes and patients, and `dataset` has the data sets `MimicCxrLt` and `NihCxrLt`. Read them in this order. The
two classes are imported here because this is how a kind of data set is found.
"""

from bench.data.kinds.cxr_lt.dataset import MimicCxrLt, NihCxrLt

__all__ = ["MimicCxrLt", "NihCxrLt"]
