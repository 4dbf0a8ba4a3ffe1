"""The benchmark of codes: its variants are what they say, its table has means and spreads, and it judges a small codec."""

from __future__ import annotations

import pytest

from benchmarks import codes
from methods.fusion import Fusion
from methods.fusion.settings import CodecSettings


def test_every_variant_is_a_codec_and_the_local_one_is_that_of_the_preset() -> None:
    for settings in codes.VARIANTS.values():
        CodecSettings(**settings)
    assert CodecSettings(**codes.VARIANTS["local"]) == CodecSettings(**Fusion.presets["local"]["codec"])
    assert codes.VARIANTS["image-wide"] == {}


def test_the_table_has_means_over_seeds_and_no_spread_of_one() -> None:
    row = dict.fromkeys(codes.COLUMNS, 0.5)
    lines = list(codes.table({"a": [row, row | {"pointing": 0.7}], "b": [row]}))
    assert lines[2].split(" | ")[5] == "0.600 ± 0.141"
    assert lines[3].split(" | ")[5] == "0.500"
    assert lines[2].endswith("| 2 |")


def test_a_small_codec_is_judged(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(codes.VARIANTS, "small", {"generations": 1, "interaction_epochs": 1, "width": 4})
    monkeypatch.setattr(
        "sys.argv", ["codes", "--only", "small", "--seeds", "0", "--images", "400", "--folder", str(tmp_path)]
    )
    assert codes.main() == 0
    cells = capsys.readouterr().out.splitlines()[2].split(" | ")
    shares = [float(cell) for cell in cells[1:8]]
    assert all(0 <= share <= 1 for share in shares)
    assert int(cells[8]) > 0
