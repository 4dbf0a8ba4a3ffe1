"""MIMIC-CXR-LT and NIH-CXR-LT, read from the folders that their makers publish."""

from bench.data.kinds.cxr_lt.dataset import MimicCxrLt, NihCxrLt

__all__ = ["MimicCxrLt", "NihCxrLt"]
