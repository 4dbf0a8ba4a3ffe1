"""The one idea of the harness: a step of the pipeline is a frozen configuration, stored under a key.

A `Stage` says how to compute a result. Its key is the digest of its settings, its inputs' keys and the code behind it,
so a result is computed once and an outdated one is never used. `Work` is what a stage gets while it computes.
Read `settings`, `key`, `code` and `stage` in this order; `checkpoints` and `missing_inputs` stand alone.
"""
