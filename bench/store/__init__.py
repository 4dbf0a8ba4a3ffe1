"""."""

AFFECTS_RESULTS = False
