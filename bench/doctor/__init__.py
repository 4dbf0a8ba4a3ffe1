"""The doctor: `bench doctor` looks for what would stop a run, before hours are spent on it.

Every function yields a `Check`: a name, whether it is fine, and what was found or what to do. `examine` looks at this
machine and the store, `examine_matrix` at a matrix's data and weights, `examine_slurm` at a cluster and, with small
probe jobs, at its nodes.

Read `machine` first, then `store` and `matrix`. For clusters read `slurm`, `probe_jobs`, and `probe`, which is the job.
"""

AFFECTS_RESULTS = False
