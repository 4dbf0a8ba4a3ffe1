"""What is known of the releases of MIMIC-CXR-LT and NIH-CXR-LT: files, classes, columns, where pictures lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PAPER = "paper"  # the preset of classes: head and tail of Elberg, Parra & Petrache
PAPER_N_HEAD = 5
PAPER_TAIL = (  # of the released code; the head is not published
    "Pneumothorax",
    "Fracture",
    "Enlarged Cardiomediastinum",
    "Tortuous Aorta",
    "Pneumomediastinum",
)
FRONTAL = ("AP", "PA")
_SAME = {"normal": "no finding"}  # the release of 2024 says so


@dataclass(frozen=True)
class Release:
    """One set of label files.

    Attributes:
        folder: where its files lie below the release's folder; the setting `labels` may name either.
        files: for train, val and test the names that their file may have.
        classes: as the harness calls them; a column may write another spelling, see `plain`.
        frontal: whether the release holds frontal views alone, so that no column need say so.
    """

    folder: str
    files: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    classes: tuple[str, ...]
    frontal: bool = False


@dataclass(frozen=True)
class Layout:
    """Which columns a family of releases has, and how it names pictures.

    Attributes:
        paths: columns that may hold the picture, the first that is there counts.
        patient, study, view: columns; None, or absent in a file: told by the path, or not at all.
        pattern: of paths (RE2): groups `rest` (below the root), `patient` and, where there are studies, `study`.
        folders: where below the root pictures may lie; `*` is any text.
    """

    paths: tuple[str, ...]
    patient: str
    study: str | None
    view: str | None
    pattern: str
    folders: tuple[str, ...]


def plain(name: str) -> str:
    """Return a class name without what releases write differently: capitals, `_` for a space, Normal for No Finding."""
    text = " ".join(name.replace("_", " ").casefold().split())
    return _SAME.get(text, text)


def same_class(name: str, classes: Iterable[str]) -> str | None:
    """Return which of the classes a spelling means, or None."""
    return next((c for c in classes if plain(c) == plain(name)), None)


def _parts(train: str, val: str, test: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return (train, "labels_train.csv"), (val, "labels_val.csv"), (test, "labels_test.csv")


_MIMIC_19 = (
    "Atelectasis",
    "Calcification of the Aorta",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumomediastinum",
    "Pneumonia",
    "Pneumoperitoneum",
    "Pneumothorax",
    "Subcutaneous Emphysema",
    "Support Devices",
    "Tortuous Aorta",
)
_MIMIC_26 = tuple(
    sorted((*_MIMIC_19, "Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule", "Pleural Thickening"))
)
_ADDED_2024 = (
    "Adenopathy",
    "Azygos Lobe",
    "Clavicle Fracture",
    "Fissure",
    "Granuloma",
    "Hydropneumothorax",
    "Infarction",
    "Kyphosis",
    "Lobar Atelectasis",
    "Pulmonary Embolism",
    "Pulmonary Hypertension",
    "Rib Fracture",
    "Round(ed) Atelectasis",
    "Tuberculosis",
)
_NIH_20 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural Thickening",
    "Hernia",
    "Pneumoperitoneum",
    "Pneumomediastinum",
    "Subcutaneous Emphysema",
    "Tortuous Aorta",
    "Calcification of the Aorta",
    "No Finding",
)

MIMIC = {
    "1.1.0-19": Release(
        "miccai-2023_mimic-cxr-lt",
        _parts(*(f"miccai2023_mimic-cxr-lt_labels_{part}.csv" for part in ("train", "val", "test"))),
        _MIMIC_19,
        frontal=True,
    ),
    "1.1.0-26": Release("cxr-lt-2023", _parts("train.csv", "development.csv", "test.csv"), _MIMIC_26),
    "2.0.0-40": Release(
        "cxr-lt-2024",
        _parts("train_labeled.csv", "development_labeled_task1.csv", "test_labeled_task1.csv"),
        tuple(sorted((*_MIMIC_26, *_ADDED_2024))),
    ),
}
MIMIC_LAYOUT = Layout(
    paths=("path", "fpath"),
    patient="subject_id",
    study="study_id",
    view="ViewPosition",
    pattern=r"^(?:.*/)?(?P<rest>p\d\d/p(?P<patient>\d{8})/s(?P<study>\d{8})/[\w.-]+\.(?:jpg|jpeg|png))$",
    folders=("files", ""),
)

NIH = {
    "single-label": Release(
        "",
        _parts(*(f"nih-cxr-lt_single-label_{part}.csv" for part in ("train", "balanced-val", "test"))),
        _NIH_20,
    ),
    "single-label-balanced": Release(
        "",
        _parts(*(f"nih-cxr-lt_single-label_{part}.csv" for part in ("train", "balanced-val", "balanced-test"))),
        _NIH_20,
    ),
    "multi-label": Release(
        "",
        _parts(*(f"miccai2023_nih-cxr-lt_labels_{part}.csv" for part in ("train", "val", "test"))),
        _NIH_20,
    ),
}
NIH_LAYOUT = Layout(
    paths=("id",),
    patient="subj_id",
    study=None,
    view=None,
    pattern=r"^(?:.*/)?(?P<rest>(?P<patient>\d{8})_\d{3}\.(?:png|jpg|jpeg))$",
    folders=("images", "images_*/images", ""),
)
