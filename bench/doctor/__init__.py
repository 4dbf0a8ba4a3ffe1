"""What a run would stumble over, looked at before hours are spent: `bench doctor`."""

AFFECTS_RESULTS = False
