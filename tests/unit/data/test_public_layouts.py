"""The YAML of `docs/data.md` is accepted, and reads lists with the headers that the public sets document."""

import re
from pathlib import Path

import pytest
import yaml

from bench.plugins import registry

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n.*?```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
)


def settings(section):
    return yaml.safe_load(SECTIONS[section])["datasets"]


def known(section, tmp_path, lines):
    """Return what the YAML of a section reads from a list with these lines."""
    (given,) = settings(section)
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    data = registry.parse_dataset(given | {"csv": str(tmp_path / "list.csv")})
    return data, data.known_labels()


@pytest.mark.parametrize("section", SECTIONS)
def test_what_the_page_says_is_accepted(section):
    for given in settings(section):
        assert registry.parse_dataset(given).kind == given["kind"]


def test_every_set_of_the_page_is_there():
    assert set(SECTIONS) == {"ChestMNIST", "CIFAR", "ChestX-ray14", "CXR-LT", "CheXpert", "PadChest", "VinDr-CXR"}


NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],"
NIH += "OriginalImagePixelSpacing[x,y]"


@pytest.mark.parametrize("end", ["", ","])
def test_chestxray14(tmp_path, end):
    said = ["Cardiomegaly", "Cardiomegaly|Emphysema", "No Finding", "Hernia|Mass|Nodule", "Mass|Edema|Fibrosis|Nodule"]
    rows = [f"0000000{i}_000.png,{labels},0,{i},58,M,PA,2682,2749,0.143,0.143{end}" for i, labels in enumerate(said)]
    data, found = known("ChestX-ray14", tmp_path, [NIH + end, *rows])
    assert found.class_names == ("Cardiomegaly", "Edema", "Emphysema", "Fibrosis", "Hernia", "Mass", "Nodule")
    assert found.labels.sum(axis=1).tolist() == [1, 2, 0, 3, 4]
    assert found.patients_known
    assert data.sharing == "open"


CHEXPERT = ["No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"]
CHEXPERT += [
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
]
CHEXPERT += ["Support Devices"]


def test_chexpert(tmp_path):
    rows = []
    for i in range(8):
        view = "Lateral" if i == 3 else "Frontal"
        cells = ["1.0" if (i + k) % 3 == 0 else ("-1.0", "0.0", "")[i % 3] for k in range(len(CHEXPERT))]
        place = f"CheXpert-v1.0/train/patient0000{i // 2}/study1/view{i}_{view.lower()}.jpg"
        rows.append(
            f"{place},{('Female', 'Male')[i % 2]},{50 + i},{view},{'AP' if view == 'Frontal' else ''},{','.join(cells)}"
        )
    data, found = known("CheXpert", tmp_path, [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(CHEXPERT)}", *rows])
    assert list(found.class_names) == CHEXPERT
    assert len(found.labels) == 7
    assert data.name_of(0, tmp_path) == "row 2 (train/patient00000/study1/view0_frontal.jpg)"
    assert found.patients.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert str(found.labels[0, :4].tolist()) == "[1.0, nan, nan, 1.0]"
    assert found.labels[2, :4].tolist() == [0, 1, 0, 0]


def test_padchest(tmp_path):
    head = ",ImageID,ImageDir,PatientID,Projection,PhotometricInterpretation_DICOM,Labels,Localizations"
    said = ["cardiomegaly', 'pleural effusion", "normal", "pneumonia", "hiatal hernia', 'scoliosis", "unchanged"]
    said += ["atelectasis', 'pneumothorax"]
    rows = [
        f"{i},{i}.png,{40 + i},{i}x,{('PA', 'AP')[i % 2]},MONOCHROME{1 + i % 2},\"['{labels}']\",\"['loc right', 'loc left']\""
        for i, labels in enumerate(said)
    ]
    rows.append("9,9.png,54,9x,L,MONOCHROME2,['normal'],[]")
    data, found = known("PadChest", tmp_path, [head, *rows])
    assert found.labels.sum(axis=1).tolist() == [2, 0, 1, 1, 0, 2]
    assert data.selection_note() == "labels not taken: 2; rows that list no other: 1; where leaves out 1 of 7 rows"
