"""Every training goes on from its last checkpoint after a SIGKILL, to the same bytes, without doing again what is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.matrix.load import load_matrix
from bench.pipeline.stage import Stage, walk
from bench.pretrain.diffusion import DiffusionSettings
from bench.pretrain.networks import ModelSettings
from bench.pretrain.oracle import OracleSettings
from bench.pretrain.stages import PretrainedDiffusion, PretrainedOracle
from bench.pretrain.unet import UnetSettings
from bench.pretrain.vae import VaeSettings
from bench.testing.toy import toy_task
from tests.reliability.judge import contents
from tests.reliability.resume import compute
from tests.reliability.warm import MATRIX

DIFFUSION = DiffusionSettings(
    model=ModelSettings(vae_channels=(8, 16), unet_channels=(16, 16), unet_attention=(False, True), text_width=16),
    vae=VaeSettings(steps=5, batch_size=4, checkpoint_every=1),
    unet=UnetSettings(steps=5, batch_size=4, checkpoint_every=1),
    grid_steps=2,
)
ORACLE = OracleSettings(n_images=32, n_test=16, epochs=1, batch_size=8, checkpoint_every=1)


@dataclass(frozen=True)
class Case:
    """A training, and where it dies.

    Attributes:
        die_at: (text in a checkpoint's path, which one): killed just before that checkpoint is put in its place.
        lost: how many steps the second attempt may do again: those after the last checkpoint.
    """

    stage: Stage
    die_at: tuple[str, int]
    lost: int


def case(name: str) -> Case:
    cells = load_matrix(str(MATRIX), ["classifier.steps=5"]).cells
    if name == "classifier":
        return Case(cells[0].classifier, ("", 3), lost=1)
    if name == "codec":
        codec = next(s for cell in cells for s in walk(cell.targets) if s.stage_name() == "codec")
        return Case(codec, ("", 2), lost=2)  # an epoch has two steps
    if name == "oracle":
        return Case(PretrainedOracle(settings=ORACLE), ("", 3), lost=0)
    told_again = int(name == "unet")  # a denoiser that goes on says first that the autoencoder is finished
    return Case(PretrainedDiffusion(train=toy_task().train, settings=DIFFUSION), (f"/{name}/", 3), lost=told_again)


@pytest.mark.parametrize("name", ["classifier", "codec", "vae", "unet", "oracle"])
def test_a_killed_training_goes_on_where_it_was(name: str, tmp_path: Path) -> None:
    it = case(name)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    told = [tmp_path / n for n in ("once", "first", "second")]
    assert compute(it.stage, undisturbed, told[0], None, checkpoint_s=20) == 0
    assert compute(it.stage, disturbed, told[1], it.die_at, checkpoint_s=0) == -9
    assert not (disturbed / it.stage.stage_name() / it.stage.key).exists()
    assert compute(it.stage, disturbed, told[2], None, checkpoint_s=0) == 0
    folders = [root / it.stage.stage_name() for root in (undisturbed, disturbed)]
    assert contents(folders[0]) == contents(folders[1])
    # The samples of a diffusion model are drawn after its training.
    once, first, second = ([t for t in path.read_text().splitlines() if "samples" not in t] for path in told)
    assert once[: len(first)] == first
    assert 0 < len(second) < len(once)
    assert once[-1] == second[-1]
    assert len(once) <= len(first) + len(second) <= len(once) + it.lost + 1
