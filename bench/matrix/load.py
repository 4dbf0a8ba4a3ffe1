"""Load a matrix: find its YAML file, apply overrides, build its cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.config.yaml_file import apply_override, read_yaml
from bench.data.dataset import Dataset
from bench.data.split import SplitSettings
from bench.errors import ConfigError, listed, nearest
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.matrix.places import anchor
from bench.matrix.settings import MatrixSettings
from bench.plugins import registry

SHIPPED = Path(__file__).parent / "shipped"
_HERE = "the working folder"


def load_matrix(name: str, overrides: Iterable[str] = ()) -> Matrix:
    """Return the matrix in a file, or the shipped one of that name, with `key=value` overrides applied.

    Paths in a file are relative to its folder, those in overrides and in shipped matrices to the working folder.

    Raises:
        ConfigError: one line that names the file and field, what was got, what is allowed.
    """
    path = find(name)
    raw, overrides = read_matrix(path), list(overrides)
    # Before any override is applied: what the user sets himself is not dropped, whichever comes first.
    if replaced := [given for given in overrides if given.startswith("methods=")]:
        _keep_used_settings(raw, replaced[-1])
    for given in overrides:
        override(raw, given)
    return build_matrix(raw, path.name)


def _keep_used_settings(raw: dict[str, Any], replaced: str) -> None:
    """Drop the file's settings of methods that `--set methods=[...]` leaves out, and its study.

    Settings that no row uses are an error in a file, but here they are no mistake of the user. A name that is no method
    stays, so that it is refused as a typing error.
    """
    raw.pop("study", None)  # its axis or its levels may name a row that is left out
    rows: dict[str, Any] = {}
    apply_override(rows, replaced)
    chosen, settings = rows["methods"], raw.get("settings")
    if isinstance(chosen, list) and isinstance(settings, dict):
        used = {method_name(row) for row in chosen}
        raw["settings"] = {k: v for k, v in settings.items() if k in used or k not in registry.known_methods()}


def read_matrix(path: Path) -> dict[str, Any]:
    """Return the content of a matrix file, with its relative paths made absolute.

    They are relative to the folder of the file, and in a shipped matrix to the working folder.

    Raises:
        ConfigError: see `read_yaml`.
    """
    raw = read_yaml(path)
    anchor_file(raw, path, SHIPPED)
    return raw


def anchor_file(raw: dict[str, Any], path: Path, shipped: Path) -> None:
    """Make the relative paths in the content of a file absolute. `shipped` is the folder of the files of ours."""
    is_ours = path.parent == shipped
    anchor(raw, Path() if is_ours else path.parent, _HERE if is_ours else f"the folder of {path.name}")


def override(raw: dict[str, Any], text: str) -> None:
    """Apply one `key=value` override to a raw matrix or data set. Paths in it are relative to the working folder.

    Raises:
        ConfigError: see `apply_override`.
    """
    apply_override(raw, text)
    anchor(raw, Path(), _HERE, below=text.partition("=")[0])


def method_name(row: object) -> str:
    """Return the method that a row of a raw file names."""
    return registry.Shorthand.of(row.get("method") if isinstance(row, dict) else row).name


def find(name: str) -> Path:
    """Return the path of a matrix file, or of the shipped matrix called `name`.

    Raises:
        ConfigError: if there is neither.
    """
    shipped = {p.stem: p for p in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.exists() or path.is_symlink():
        what = "is a folder" if path.is_dir() else "is a broken link" if path.is_symlink() else "is not a regular file"
        raise ConfigError(f"matrix '{name}': {what}; give a YAML file or one of {listed(shipped)}")
    hint = nearest(name, shipped)
    raise ConfigError(
        f"matrix '{name}': no such file and no shipped matrix of that name{hint} (have: {listed(shipped)})"
    )


def find_dataset(name: str, overrides: Iterable[str], label: str | None) -> tuple[Dataset, SplitSettings]:
    """Return a data set of a matrix file and the settings of its split; the rest of the file need not be usable.

    If `name` is a kind of data set, the overrides are its settings, and the split has its defaults.

    Raises:
        ConfigError: if the file is wrong, no data set has the label, or `label` is None and there are several.
    """
    kind = name in registry.datasets() and not Path(name).is_file()
    try:
        path = Path(name) if kind else find(name)
    except ConfigError as error:
        raise ConfigError(f"{error}; or a kind of data set: {listed(registry.datasets())}") from error
    raw = {"kind": name} if kind else read_matrix(path)
    for given in overrides:
        override(raw, given)
    if kind:
        dataset = registry.parse_dataset(raw | {"kind": name}, name)
        if label not in (None, dataset.label):
            raise ConfigError(f"{name}: --dataset {label}: is an option for a matrix; leave it out")
        return dataset, SplitSettings()
    settings = registry.build(MatrixSettings, raw, path.name)
    datasets = [registry.parse_dataset(d, f"{path.name}.datasets.{i}") for i, d in enumerate(settings.datasets)]
    labels = [d.label for d in datasets]
    if label is None and len(datasets) > 1:
        raise ConfigError(f"matrix {settings.name}: {len(datasets)} data sets; give --dataset {' or '.join(labels)}")
    if label is not None and label not in labels:
        have = f"(have: {listed(labels)})"
        raise ConfigError(f"matrix {settings.name}: --dataset: no data set '{label}'{nearest(label, labels)} {have}")
    return datasets[labels.index(label) if label else 0], settings.split
