"""What is known of the releases of MIMIC-CXR-LT and NIH-CXR-LT: files, classes, columns, and places of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PAPER = "paper"  # the preset with the classes of the paper by Elberg, Parra & Petrache
PAPER_N_HEAD = 5
PAPER_TAIL = (  # from the released code; which classes are head is not published, so the five most frequent are taken
    "Pneumothorax",
    "Fracture",
    "Enlarged Cardiomediastinum",
    "Tortuous Aorta",
    "Pneumomediastinum",
)
FRONTAL = ("AP", "PA")
_SAME = {"normal": "no finding"}  # the release of 2024 calls the class Normal


@dataclass(frozen=True)
class Release:
    """One set of label files.

    Attributes:
        folder: the folder of the files inside the release's folder; the setting `labels` may name either folder.
        files: for each of train, val and test, the names that its file may have.
        classes: the names of the classes as the harness writes them; a column may have another spelling, see `plain`.
        frontal: whether the release holds only frontal views. If so, no column of views is needed.
    """

    folder: str
    files: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    classes: tuple[str, ...]
    frontal: bool = False


@dataclass(frozen=True)
class Layout:
    """The columns of a family of releases, and how it names pictures.

    Attributes:
        paths: the columns that may hold the path of the picture; the first one in the file is used.
        patient, study, view: the names of these columns, or None. A file may lack them: patient and study are also in
            the path, and without a view, nothing is known of it.
        pattern: the pattern of paths (RE2), with the groups `rest` (the path below the root), `patient` and, if there
            are studies, `study`.
        folders: the folders below the root where pictures may be; `*` stands for any text.
    """

    paths: tuple[str, ...]
    patient: str
    study: str | None
    view: str | None
    pattern: str
    folders: tuple[str, ...]


def plain(name: str) -> str:
    """Return a class name in one spelling: releases differ in capitals, `_` or spaces, and Normal or No Finding."""
    text = " ".join(name.replace("_", " ").casefold().split())
    return _SAME.get(text, text)


def same_class(name: str, classes: Iterable[str]) -> str | None:
    """Return the class that a spelling means, or None."""
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
