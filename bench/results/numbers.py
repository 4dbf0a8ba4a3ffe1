"""Numbers as tables show them to people. Files and answers for machines (CSV, JSON) keep Python's own form."""

from __future__ import annotations


def fixed(value: float, places: int, plus: bool = False) -> str:
    """Return a number with a fixed number of decimals and a minus sign, not a hyphen: `0.618`, `−0.021`.

    Args:
        value: a finite number.
        places: the number of decimals.
        plus: begin a positive number with `+`, as a difference.
    """
    return f"{value:{'+' if plus else ''}.{places}f}".replace("-", "−")
