"""The shipped assets: they load offline, are small, and do what their records say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from bench.data.kinds.phantom import CLASS_NAMES, HEAD, TAIL, PhantomSettings
from bench.evaluation.oracle import ask_oracle, load_oracle
from bench.pretrain.diffusion import DiffusionSettings
from bench.pretrain.oracle import OracleSettings
from bench.pretrain.phantom_data import natural

ASSETS = Path(bench.__file__).parent / "assets"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_assets_stay_small():
    assert sum(p.stat().st_size for p in ASSETS.rglob("*") if p.is_file()) < 12e6


def test_records_name_the_settings_that_the_command_uses_today():
    """A changed default without a new training would leave a record that no command reproduces."""
    oracle = json.loads((ASSETS / "oracle" / "record.json").read_text())["settings"]
    assert oracle == json.loads(OracleSettings().model_dump_json())
    tiny = json.loads((ASSETS / "tiny-diffusion" / "record.json").read_text())["settings"]
    today = json.loads(DiffusionSettings().model_dump_json())
    assert {**tiny, "data_note": ""} == today


def test_oracle_sees_findings_of_unseen_phantoms():
    from sklearn.metrics import average_precision_score

    data = natural(PhantomSettings(seed=11, prevalence_floor=0.02), 500)
    logits, features = ask_oracle(load_oracle(), data.images)
    assert np.isfinite(features).all()
    ap = {n: average_precision_score(data.labels[:, c], logits[:, c]) for c, n in enumerate(CLASS_NAMES)}
    assert np.mean([ap[n] for n in HEAD]) > 0.8
    assert np.mean([ap[n] for n in TAIL]) > 0.5


def test_autoencoder_keeps_what_the_oracle_sees():
    from diffusers import AutoencoderKL

    from bench.pretrain.vae import encode_moments, reconstruct

    vae = AutoencoderKL.from_pretrained(str(ASSETS / "tiny-diffusion" / "vae"), torch_dtype=torch.float32)
    data = natural(PhantomSettings(seed=12), 200)
    mean, std = encode_moments(vae, data.images)
    variance = float(mean.var() + (std**2).mean()) * vae.config.scaling_factor**2
    assert variance == pytest.approx(1, abs=0.1)
    before, after = (ask_oracle(load_oracle(), im)[0] > 0 for im in (data.images, reconstruct(vae, data.images)))
    assert (before == after).mean() > 0.9
