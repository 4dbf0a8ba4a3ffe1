"""Running: the order of the stages, and where each is computed.

`run_matrix` plans the unfinished stages as a `Workload` and gives it to an `Executor`: `Inline` (this process),
`Processes` (fresh processes on this machine) or `Slurm`. A `Reporter` hears what happens. The store alone decides what
is finished, so every executor can be killed at any moment.

Read `workload` first, then `inline` (the smallest executor), `run_matrix`, `processes`, and `slurm/` last.
`machine_file` and `placement` choose the executor; `status`, `explain`, `jobs` and `log` answer questions about a run.
"""
