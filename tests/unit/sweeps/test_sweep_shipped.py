"""The shipped sweeps try first what they say: the paper's setting, then the demo's own."""

from __future__ import annotations

import pytest

from sweeps.settings import load_sweep

PAPER = {
    "cam": {"saliency": {"cam_method": "eigencam", "cam_layers": "all"}, "pairing": {"k_neighbors": 3},
            "fusion": {"cam_high": 0.5, "cam_low": 0.5, "thresholds": "per_class", "thresholds_std": 0.1}},
    "il_se": {"codec": {"generations": 20, "interaction_epochs": 1, "imitation_epochs": 1,
                        "n_simplices": 1, "vocab_size": 64, "temperature": 1.0}},
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_setting_is_tried_first_and_then_the_demos(name: str) -> None:
    sweep = load_sweep(name)
    first, second = sweep.settings.enqueue
    tried = sweep.matrix(dict(first)).cells[0].method.model_dump()
    for part, expected in PAPER[name].items():
        assert {key: tried[part][key] for key in expected} == expected
    assert sweep.matrix(dict(second)).cells[0].key == sweep.matrix({}).cells[0].key
