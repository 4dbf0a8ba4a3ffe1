"""Sizes in words."""

import pytest

from bench.files import size_text


@pytest.mark.parametrize(
    ("n_bytes", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (8_000_000, "7.6 MiB"),
        (340 << 20, "340 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (1210 << 30, "1,210.0 GiB"),
    ],
)
def test_a_size_is_told_in_a_unit_in_which_it_is_not_zero(n_bytes: int, said: str) -> None:
    assert size_text(n_bytes) == said
