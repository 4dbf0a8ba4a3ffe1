"""The pilot of a matrix: its rows, pixels, networks and denoising steps on a small sample, in a store of its own."""

from __future__ import annotations

from pathlib import Path

from bench.matrix.matrix import Matrix

_PER_CLASS = 8
_STEPS = 20


def pilot_store(root: Path) -> Path:
    """Return the folder of the store that pilots of the store in `root` use."""
    return root.with_name(f"{root.name}-pilot")


def pilot_overrides(matrix: Matrix) -> list[str]:
    """Return the `key=value` overrides that make a pilot of a matrix.

    Each data set is sampled as its `pilot_settings` say, at most 8 images a class are made, one seed is run, and the
    classifier is trained for one epoch or at most 20 steps. No pairs are held out.
    """
    datasets = {cell.dataset.label: cell.dataset for cell in matrix.cells}.values()
    sampled = ((i, item) for i, dataset in enumerate(datasets) for item in dataset.pilot_settings().items())
    overrides = [f"datasets.{i}.{name}={'null' if value is None else value}" for i, (name, value) in sampled]
    settings = matrix.settings
    steps = settings.classifier.steps
    overrides += [
        "study=null",  # its axis may be a setting that the pilot changes
        "split.min_positives=1",
        "split.min_patients=1",
        "split.held_out_pairs=[]",  # a pair need not occur in the sample
        f"augment.per_class={min(_PER_CLASS, settings.augment.per_class)}",
        f"classifier.steps={min(_STEPS, steps)}" if steps else "classifier.epochs=1",
        f"seeds=[{settings.seeds[0]}]",
    ]
    counts = {name: min(_PER_CLASS, n) for name, n in settings.augment.counts.items()}
    return overrides + ([f"augment.counts={counts}"] if counts else [])
