"""The kinds of data sets. Each kind is one module or package here with a subclass of `Dataset`.

A kind is found because its module is here; there is no list to add it to. A package of somebody else can add a kind by
the entry point `bench.datasets`. `folder` reads your own images and is the one to imitate, `cxr_lt` reads
MIMIC-CXR-LT and NIH-CXR-LT, and `phantom` draws radiographs whose findings are known.
"""
