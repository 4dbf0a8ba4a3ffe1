"""How long a run will take, and how much disk: scaled from what was measured, never from a model of the machine.

`measured.py` reads the seconds, bytes and sizes that manifests hold; `Measured.predict` scales them to another stage
of the same kind. `estimate.py` adds them up for a matrix (`bench run MATRIX --dry-run`). `pilot.py` has the settings of
a small run that measures every kind once (`bench run MATRIX --pilot`). Read them in this order.
"""

AFFECTS_RESULTS = False
