"""The methods, one file or folder each. A new file here is found without being registered.

`BENCH_METHODS` names further folders with such files, separated like the entries of `PATH`.

Read in this order: baseline and duplicate (the controls), smote and mlsmote, remix, roentgen, sdedit, da_fusion,
erase, the folder fusion (the paper's method), and cutpaste, its control in pixels.
"""

import os

__path__ += [folder for folder in os.environ.get("BENCH_METHODS", "").split(os.pathsep) if folder]
