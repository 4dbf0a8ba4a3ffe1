"""Tracking: what happens with a cell when it ends.

`LocalTracker` writes the local record of every cell. `WandbTracker` also copies finished cells to Weights & Biases, in
a child process (`wandb_mirror`), so that nothing that fails there can stop a run. `Sender` is the part of it that does
so for any kind of record; a sweep uses it for its trials. What may leave the machine is decided
by `bench.privacy.border`, never here.

Read `tracker` first, then `wandb_mirror`. `dashboard` says what W&B shows of a matrix, and `save_dashboard` saves it,
with the `figures` of the report.
"""
