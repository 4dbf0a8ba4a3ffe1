"""What must hold on a cluster: tests against a real SLURM that `cluster` starts on this machine."""
