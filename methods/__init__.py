"""Methods: one file or folder each, found by being there; `BENCH_METHODS` names further folders of such files."""

import os

__path__ += [folder for folder in os.environ.get("BENCH_METHODS", "").split(os.pathsep) if folder]
