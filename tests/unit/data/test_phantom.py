"""The phantom: deterministic, resolution-free labels, honest masks and prevalences."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from bench.data.kinds.phantom import CLASS_NAMES, HEAD, PREVALENCES, TAIL, PhantomSettings, facts, render

SETTINGS = PhantomSettings(seed=3)


def digest(settings: PhantomSettings, indices: range) -> str:
    parts = [render(settings, i, masks=True) for i in indices]
    return hashlib.sha256(b"".join(p.image.tobytes() + p.masks.tobytes() for p in parts)).hexdigest()


@pytest.fixture(scope="module")
def crowd():
    return [facts(SETTINGS, i) for i in range(4000)]


def test_ten_classes_five_head_five_tail():
    assert CLASS_NAMES == HEAD + TAIL
    assert (len(HEAD), len(TAIL)) == (5, 5)


def test_same_bytes_in_another_process():
    code = "from tests.unit.data.test_phantom import digest, SETTINGS; print(digest(SETTINGS, range(6)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == digest(SETTINGS, range(6))


def test_image_depends_on_seed_index_and_offset():
    first = render(SETTINGS, 8).image
    assert not np.array_equal(first, render(SETTINGS, 9).image)
    assert not np.array_equal(first, render(PhantomSettings(seed=4), 8).image)
    assert np.array_equal(first, render(PhantomSettings(seed=3, offset=8), 0).image)


def test_labels_do_not_depend_on_resolution():
    for i in range(30):
        small, large = facts(SETTINGS, i), facts(PhantomSettings(seed=3, image_px=96), i)
        assert np.array_equal(small.true_labels, large.true_labels)
        assert np.array_equal(small.observed_labels, large.observed_labels)
        assert small.patient == large.patient


def test_other_resolution_shows_the_same_chest():
    small = render(SETTINGS, 1).image.astype(float)
    large = render(PhantomSettings(seed=3, image_px=128), 1).image.astype(float)
    pooled = large.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(small.ravel(), pooled.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("image_px", [32, 64, 100])
def test_masks_are_there_exactly_for_drawn_findings(image_px):
    settings = PhantomSettings(seed=3, image_px=image_px)
    for i in range(12):
        drawn = render(settings, i, masks=True)
        assert drawn.image.shape == (image_px, image_px)
        assert np.array_equal(drawn.masks.any((1, 2)), drawn.true_labels)
    for c in range(len(CLASS_NAMES)):
        one = np.arange(len(CLASS_NAMES)) == c
        for i in range(6):
            drawn = render(settings, i, one, masks=True)
            assert np.array_equal(drawn.masks.any((1, 2)), one)
            assert drawn.masks[c].mean() < 0.35


@pytest.mark.parametrize("c", range(len(CLASS_NAMES)))
def test_a_finding_changes_the_image_where_its_mask_is(c):
    nothing, one = np.zeros(len(CLASS_NAMES), bool), np.arange(len(CLASS_NAMES)) == c
    inside, outside = [], []
    for i in range(20):
        healthy, ill = render(SETTINGS, i, nothing), render(SETTINGS, i, one, masks=True)
        change = np.abs(ill.image.astype(float) - healthy.image)
        inside.append(change[ill.masks[c]].mean())
        outside.append(change[~ill.masks[c]].mean())
    assert np.mean(inside) > 4 * np.mean(outside)


def test_override_leaves_other_findings_as_they_are():
    index = next(i for i in range(200) if facts(SETTINGS, i).true_labels.sum() == 1)
    own = facts(SETTINGS, index).true_labels
    assert np.array_equal(render(SETTINGS, index).image, render(SETTINGS, index, own).image)
    assert np.array_equal(render(SETTINGS, index, own).observed_labels, own)


def test_wrong_override_is_refused():
    with pytest.raises(ValueError, match="shape"):
        render(SETTINGS, 0, [True])
    with pytest.raises(IndexError):
        facts(SETTINGS, -1)


def test_prevalences_within_binomial_error(crowd):
    share = np.mean([f.true_labels for f in crowd], axis=0)
    p = np.array(PREVALENCES)
    # Images of a patient share a severity, so the error is wider than the binomial one: twice.
    assert np.all(np.abs(share - p) < 4 * 2 * np.sqrt(p * (1 - p) / len(crowd)))


def test_floor_lifts_rare_classes_only():
    floored = PhantomSettings(seed=3, prevalence_floor=0.05)
    assert floored.effective_prevalences() == tuple(max(p, 0.05) for p in PREVALENCES)
    share = np.mean([facts(floored, i).true_labels for i in range(3000)], axis=0)
    assert share[-1] > 0.03
    for i in range(20):
        assert np.array_equal(facts(floored, i).true_labels[:5], facts(SETTINGS, i).true_labels[:5])


def test_findings_co_occur(crowd):
    labels = np.array([f.true_labels for f in crowd], dtype=float)[:, :5]
    correlation = np.corrcoef(labels.T)[np.triu_indices(5, 1)]
    assert np.all(correlation > 0.05)


def test_patients_have_one_to_four_images_in_a_row(crowd):
    patients = [f.patient for f in crowd]
    counts = Counter(patients)
    assert set(counts.values()) == {1, 2, 3, 4}
    assert patients == sorted(patients)


def test_observed_labels_miss_and_invent_at_the_stated_rates(crowd):
    true = np.array([f.true_labels for f in crowd])
    seen = np.array([f.observed_labels for f in crowd])
    assert abs((~seen)[true].mean() - SETTINGS.miss_rate) < 0.02
    p = np.array(PREVALENCES[0])
    invented = seen[~true[:, 0], 0].mean()
    assert abs(invented - SETTINGS.false_rate * p / (1 - p)) < 0.02


def test_without_noise_observed_is_true():
    clean = PhantomSettings(seed=3, miss_rate=0, false_rate=0)
    for i in range(50):
        assert np.array_equal(facts(clean, i).true_labels, facts(clean, i).observed_labels)


def test_positive_severity_means_present(crowd):
    for f in crowd[:200]:
        assert np.array_equal(f.severities > 0, f.true_labels)


def test_settings_are_frozen_and_strict():
    with pytest.raises(ValidationError):
        PhantomSettings(contras=1)
    with pytest.raises(ValidationError):
        PhantomSettings(offset=3)
    with pytest.raises(ValidationError):
        SETTINGS.seed = 9
