"""The border: everything that goes to a tracker, or into a report that is passed on, is built here.

It is an allow-list. A list of what is forbidden would miss each field that somebody adds later, and patient data that
has been sent once cannot be taken back. Anything that is not named here stays on this machine.

For a data set that is not declared `open`, these may pass: settings without places on disk, names of classes and rows,
final aggregates, and training curves. These may not: images (real or synthetic), maps, latents, values of a single
image, ids, texts that came from the data (an error, the reason of a skip), and names of machines. Names that people
chose pass if they look like names (`bench.privacy.names`).
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.data.dataset import Dataset
from bench.errors import ConfigError, listed
from bench.files import nested
from bench.pipeline.stage import Stage, walk
from bench.pixels import mosaic
from bench.privacy.media import Medium, Picture, Table, read_media
from bench.privacy.metric_names import MetricNames, is_number, short_names
from bench.privacy.names import WITHHELD, is_name, plain, stand_ins
from bench.privacy.payload import Payload
from bench.tables import UInt8

_WORDS = ("metric_id", "reference", "selection", "architecture")  # the fields of results whose texts we write ourselves
_CLOUDS = ("wandb.ai", "wandb.io", "wandb.com", "coreweave.com")
_PORTS = {"https": 443, "http": 80}
_GRID_COLUMNS, _GRID_ROWS = 8, 10
_DIGITS = re.compile(r"\d+")
# A method may put one entry per image into its diagnostics, under names such as image_0, image_1. No name says so, but
# the number of names does: there are only a few steps and classes, but many images.
_MOST_ALIKE = 30  # more names that differ only in a number are taken for images
_MOST_NAMES = 64  # more names in one mapping that belong to no class are taken for images
_HOST = re.compile(r"[a-z0-9\[][a-z0-9.\-\[\]:]*")
_WORD = re.compile(r"[A-Za-z0-9][\w.+@-]{0,119}")


def is_open(sharing: str) -> bool:
    """Tell whether a data set's pictures may be shown to anybody."""
    # Only this one word counts, so a spelling mistake or an unknown value keeps the data in.
    return sharing == "open"


def derived_from(stage: Stage) -> str | None:
    """Return a note about the weights that a stage trains on data sets that are not open; None if all are open."""
    found = {s.label for s in walk([stage]) if isinstance(s, Dataset) and not is_open(s.sharing)}
    if not found:
        return None
    return (
        f"note: weights that learn from {listed(found)} fall under the same terms: keep them where the data may be, "
        "and say `sharing: credentialed` where a matrix names them"
    )


def host_of(url: str) -> str:
    """Return the host of a URL, with its port unless that is the default port of the scheme."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port
    return host if port in (None, _PORTS.get(parts.scheme)) else f"{host}:{port}"


def check_server(server: str, mode: str, url: str | None = None) -> None:
    """Refuse a server that may not get everything.

    Args:
        server: the host (and port) that the user allowed.
        mode: `offline`, `online` or `off`.
        url: the address that W&B is set to use; None if it is not known.

    Raises:
        ConfigError: unless the server is a bare host name, is not in W&B's own cloud, is used online, and is the host
            of `url`.
    """
    # Each check closes a way by which data meant for a hospital's own server could end up elsewhere. An offline run,
    # for example, can be uploaded to any server later.
    if mode != "online":
        raise ConfigError(f"--share-with {server}: works only with --wandb online, got --wandb {mode}")
    try:
        bare = bool(_HOST.fullmatch(server)) and server == host_of(f"https://{server}")
    except ValueError:
        bare = False
    if not bare:
        raise ConfigError(f"--share-with {server}: want a host in small letters, e.g. wandb.hospital.org")
    name = server.partition(":")[0]
    for cloud in _CLOUDS:
        if name == cloud or name.endswith(f".{cloud}"):
            raise ConfigError(f"--share-with {server}: is W&B's own cloud; want a server that you host yourself")
    if url is not None and host_of(url) != server:
        raise ConfigError(
            f"--share-with {server}: W&B talks to {host_of(url)}; set WANDB_BASE_URL, or `wandb login --host`, to it"
        )


def payload(record: dict[str, Any], root: Path, server: str | None = None, folder: Path | None = None) -> Payload:
    """Return what a tracker gets for one cell, for one training that cells share, or for one trial of a sweep.

    Args:
        record: the record of the cell, see `bench.results.record`; of the training, see `bench.results.stage_record`;
            or of the trial, see `sweeps.records`.
        root: the folder of the store.
        server: the host that is about to get the payload, if the user allowed that host to have everything.
        folder: where the record is, and beside it what was picked to be shown of the cell's images; None if not wanted.

    Raises:
        StoreError: if what was picked cannot be read.
    """
    # The record lists the servers that the user has allowed for it. Both are asked for, so that a slip in the
    # caller cannot send everything to a host that nobody has allowed.
    allowed = server is not None and server in record.get("shared_with", ())
    everything = is_open(record.get("sharing", "")) or allowed
    if record.get("kind") == "trial":
        return _of_trial(record if everything else _reduced_trial(record), server if allowed else None)
    if record.get("kind") == "stage":
        return _of_stage(record if everything else _reduced_stage(record), server if allowed else None)
    if not everything:
        record = _reduced_record(record)
    metrics, shared = MetricNames(_class_names(record)), record.get("shared_trainings", {})
    own = {name: content for name, content in record["stage_records"].items() if name.partition("/")[0] not in shared}
    curves = {"classifier": _numbers(record["history"], metrics)} | _curves(own, metrics)
    results = {name: record.get(name) for name in ("scores", "fidelity", "diagnostics")}
    results["selected"] = record["classifier"]
    # W&B's own duration is that of the copying, so what the stages took is a number of its own.
    summary: dict[str, Any] = {"stage_seconds": record["seconds"]}
    for part, found in results.items():  # scores and fidelity keep the short names that the table has
        prefix = f"{part}_" if part in ("selected", "diagnostics") else ""
        summary |= metrics.named(found or {}, prefix)
    return Payload(
        name=record["cell"],
        group=record["matrix"],
        job_type=record["method"],
        config=_config(record, metrics, server if allowed else None),
        summary=summary,
        curves={name: rows for name, rows in curves.items() if rows},
        tags=(record["dataset"], record["method"], *(("skipped",) if record["skip"] else ())),
        media=_media(record, metrics, root, folder) if everything else _class_table(record, metrics),
    ).with_digest()


def _media(record: dict[str, Any], metrics: MetricNames, root: Path, folder: Path | None) -> dict[str, Medium]:
    """Return all pictures and tables of a cell. Only data of which everything may leave get here."""
    grid = sample_grid(root / record["synthetic"])
    samples: dict[str, Medium] = {} if grid is None else {"samples": Picture(grid, "one row a target class")}
    picked = {} if folder is None else read_media(folder, record["key"])
    return samples | _class_table(record, metrics) | picked


def _class_table(record: dict[str, Any], metrics: MetricNames) -> dict[str, Medium]:
    """Return the table of the counts and scores of every class, which are aggregates."""
    rows = metrics.table((record["scores"] or {}) | (record["fidelity"] or {}))
    return {"per_class": Table(tuple(rows[0]), [list(row.values()) for row in rows])} if rows else {}


def _config(record: dict[str, Any], metrics: MetricNames, server: str | None) -> dict[str, Any]:
    """Return the configuration of a run: plain columns that people sort and group by, and nested mappings."""
    settings = record["config"]
    facts = {name: record[name] for name in ("key", "seeds", "versions", "git", "seconds")}
    return {
        "method": settings.get("method.name"),
        "method_label": record["method"],
        "denoise_steps": settings.get("method.denoise_steps"),
        "dataset": record["dataset"],
        "seed": record["seeds"]["cell"],
        "matrix": record["matrix"],
        "settings": nested(settings),
        "run": facts | ({"shared_with": server} if server else {}),
        "classes": {short: name for name, short in metrics.classes.items()},
    } | ({"stages": record["shared_trainings"]} if record.get("shared_trainings") else {})


def _of_stage(record: dict[str, Any], server: str | None) -> Payload:
    """Return what a tracker gets for one training that cells share."""
    metrics = MetricNames([])
    summary: dict[str, Any] = {"stage_seconds": record["seconds"]}
    for content in record["stage_records"].values():
        if isinstance(content, dict):
            summary |= metrics.named({k: v for k, v in content.items() if is_number(v)}, f"{record['stage']}_")
    facts = {name: record[name] for name in ("key", "versions", "git", "seconds")}
    columns = {name: record[name] for name in ("stage", "dataset", "seed", "matrix")}
    return Payload(
        name=record["cell"],
        group=record["matrix"],
        job_type="stage",
        config=columns
        | {"settings": nested(record["config"]), "run": facts | ({"shared_with": server} if server else {})},
        summary=summary,
        curves={name: rows for name, rows in _curves(record["stage_records"], metrics).items() if rows},
        tags=(record["dataset"], record["stage"]),
    ).with_digest()


def _reduced_stage(record: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a shared training's record that may leave when its data set is not open."""
    names = {n: record[n] if is_name(record[n]) else WITHHELD for n in ("dataset", "matrix")}
    told = ("cell", "stage", "key", "seed", "versions", "git", "seconds", "config")
    return names | {n: plain(record[n], n) for n in told} | {"stage_records": {}}


TRIAL_COLUMNS = ("study", "trial", "state", "method", "dataset", "sampler", "settings", "run")


def _of_trial(record: dict[str, Any], server: str | None) -> Payload:
    """Return what a tracker gets for one trial: its parameters as columns to sort by, and what was measured."""
    names = short_names([*TRIAL_COLUMNS, *record["columns"]])
    columns = {names[name]: value for name, value in record["columns"].items()}
    summary = {"state": record["state"], "seconds": record["seconds"], "retried_as": record["retried_as"]}
    facts = {name: record[name] for name in ("key", "seeds", "versions", "git", "objectives")}
    return Payload(
        name=f"{record['matrix']}/{record['cell']}",
        group=record["matrix"],
        job_type="trial",
        config=columns
        | {
            "study": record["matrix"],
            **{name: record[name] for name in ("trial", "state", "method", "dataset", "sampler")},
            "settings": nested(record["config"]),
            "run": facts | ({"shared_with": server} if server else {}),
        },
        summary={name: value for name, value in (summary | record["metrics"]).items() if value is not None},
        tags=(record["dataset"], record["method"], record["state"]),
    ).with_digest()


def _reduced_trial(record: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a trial's record that may leave when its data set is not open. Its reason stays."""
    names = {n: record[n] if is_name(record[n]) else WITHHELD for n in ("dataset", "method", "matrix")}
    ours = {n: record[n] for n in ("cell", "trial", "state", "retried_as", "sampler", "seconds")}
    told = ("key", "seeds", "versions", "git", "objectives", "config", "columns")
    return names | ours | {n: plain(record[n], n) for n in told} | {"metrics": aggregates(record["metrics"], {})}


def _reduced_record(record: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a record that may leave when its data set is not open. Parts not named here stay."""
    names = {n: record[n] if is_name(record[n]) else WITHHELD for n in ("dataset", "method", "matrix")}
    classes = stand_ins(_class_names(record), "class")
    parts = {n: aggregates(record.get(n), classes) for n in ("scores", "fidelity", "diagnostics", "classifier")}
    facts = {n: plain(record[n], n) for n in ("key", "seeds", "versions", "git", "seconds", "config")}
    return (
        facts
        | names
        | parts
        | {
            "cell": f"{names['dataset']}/{names['method']}/s{record['seeds']['cell']}",
            "history": [aggregates(row, classes) for row in record["history"]],
            "stage_records": {},
            "shared_trainings": plain(record.get("shared_trainings", {})),
            "skip": bool(record["skip"]),
        }
    )


def _class_names(record: dict[str, Any]) -> list[str]:
    """Return the names of the classes in their order; of a cell without scores, as its training has them."""
    trained = record["history"][0] if record["history"] else {}
    return list((record["scores"] or {}).get("ap") or trained.get("val_ap") or ())


def aggregates(found: Any, classes: dict[str, str]) -> Any:
    """Return the aggregates in nested mappings: numbers under harmless names, with the names of classes replaced.

    Args:
        found: a part of a record.
        classes: what to call each class.
    """
    # Lists are dropped as a whole, because their elements usually belong to single images.
    if not isinstance(found, dict):
        return None
    kept: dict[str, Any] = {}
    alike = Counter(_DIGITS.sub("#", str(name)) for name in found if name not in classes)
    single = sum(n for n in alike.values() if n <= _MOST_ALIKE)
    for name, value in found.items():
        said = classes.get(name, str(name))
        of_images = single > _MOST_NAMES or alike[_DIGITS.sub("#", str(name))] > _MOST_ALIKE
        if not is_name(said) or (of_images and name not in classes):
            continue
        if isinstance(value, dict):
            kept[said] = aggregates(value, classes)
        elif _is_aggregate(name, value) or _is_ours(name, value):
            kept[said] = value
    return kept


def _is_aggregate(name: Any, value: Any) -> bool:
    """Tell whether a value is None, a truth value, or a number that is too short to be an id."""
    if is_number(value):
        return plain(value, str(name)) == value
    return value is None or isinstance(value, (bool, float))


def _is_ours(name: Any, value: Any) -> bool:
    return name in _WORDS and isinstance(value, str) and bool(_WORD.fullmatch(value))


def _curves(stage_records: dict[str, Any], metrics: MetricNames) -> dict[str, list[dict[str, float]]]:
    """Return the lists of mappings in the JSON files of stages, by `<stage>/<file>/<name>`, reduced to numbers."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, content in stage_records.items():
        parts = content.items() if isinstance(content, dict) else ()
        found |= {f"{name}/{part}": _numbers(rows, metrics) for part, rows in parts}
    return found


def _numbers(value: Any, metrics: MetricNames) -> list[dict[str, float]]:
    """Return a list of mappings reduced to their numbers, or an empty list if `value` is not such a list."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        return []
    return [{k: float(v) for k, v in metrics.named(row).items() if is_number(v)} for row in value]


def sample_grid(folder: Path) -> UInt8 | None:
    """Return the first synthetic images of each target class as one picture, with one row per class."""
    import numpy as np

    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        targets = np.load(folder / "target_class.npy")
    except OSError:
        return None
    shown = list(dict.fromkeys(targets.tolist()))[:_GRID_ROWS]
    rows = [images[np.flatnonzero(targets == target)[:_GRID_COLUMNS]] for target in shown]
    return mosaic(rows, _GRID_COLUMNS) if rows else None
