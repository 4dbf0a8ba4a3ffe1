"""Running on a SLURM cluster, through submitit.

`Slurm` submits one job for each stage and watches the store. `StageJob` is what a job runs: it reads its stage from a
recipe, a JSON file, and computes it. `Queue` is what SLURM says about our jobs.

Read `executor` first, then `job` and `recipe` (what runs on a node), then `queue` (the calls to SLURM). The ledger of
submitted jobs is in `bench.store.submissions`.
"""
