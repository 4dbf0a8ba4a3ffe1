"""Data sets: each kind is one module or package here, found by being there (or by the entry point `bench.datasets`)."""
