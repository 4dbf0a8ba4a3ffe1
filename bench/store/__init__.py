"""The store: a folder of finished stages, safe for any number of processes on any number of hosts.

`Store` (`store`) computes each stage once under a claim (`claims`, `leases`) and publishes its result by one rename
(`attempt`). `work` is what a stage gets while it computes, and `manifest` is what is recorded about it. Read these
first. `inventory`, `cleanup` and `verify` are the tools that look after a store, and `submissions` remembers which
stages were handed to SLURM.
"""

AFFECTS_RESULTS = False
