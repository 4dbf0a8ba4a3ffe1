"""A faulty CSV: refused in one line before anything is computed or written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.driver import Bench
from tests.e2e.faulty import HEADER, ROW, Case, good_rows
from tests.pictures import write_png

OFFICIAL = {"split_column": "part"}


def cells(column: int, value: str | None = None, only: str = "", **by_row: str) -> Callable[[list[str]], list[str]]:
    """Return an edit that sets a column: to `value` in every row that has `only`, or row by row (`r3="x"`)."""

    def edit(rows: list[str]) -> list[str]:
        table = [row.split(",") for row in rows]
        for i, row in enumerate(table):
            if value is not None and only in [*row, ""]:
                row[column] = value
            row[column] = by_row.get(f"r{i}", row[column])
        return [",".join(row) for row in table]

    return edit


def whole(text: str, encoding: str = "utf-8") -> bytes:
    return "\n".join([text, *good_rows()]).encode(encoding)


def link(target: str, name: str) -> Callable[[Path], None]:
    def prepare(root: Path) -> None:
        write_png(root.parent / "outside.png", np.eye(32, dtype=np.uint8))
        os.symlink(target, root / name)

    return prepare


ALLOWED = "allowed: 1, 0, -1 (uncertain) or blank"
PLAN: dict[str, Case] = {
    # the file
    "missing file": Case("labels.csv: cannot be read (No such file", prepare=lambda r: (r / "labels.csv").unlink()),
    "a folder": Case("cannot be read (Is a directory)", settings={"csv": "."}),
    "empty file": Case("labels.csv: the file is empty; want a header line", raw=b""),
    "only blank lines": Case("the file is empty", raw=b"\n\n \n"),
    "header only": Case("labels.csv: no rows below the header", raw=HEADER.encode()),
    "latin-1": Case(f"{ROW} is not UTF-8 (byte 0xe9); save it as UTF-8", raw=whole(HEADER) + b"\n\xe9.png,p,t,1,0"),
    "UTF-16": Case("labels.csv: is UTF-16; save it as UTF-8", raw=whole(HEADER, "utf-16")),
    "UTF-16 without a mark": Case("row 1 holds a NUL byte", raw=whole(HEADER, "utf-16-le")),
    "NUL byte": Case(f"{ROW} holds a NUL byte", add=["a\0b.png,p,train,1,0"]),
    "gzip": Case("labels.csv: is packed (gzip); unpack it", raw=b"\x1f\x8b\x08\0rest"),
    "spreadsheet": Case("labels.csv: is a spreadsheet or zip file; save it as CSV", raw=b"PK\x03\x04rest"),
    "semicolons": Case("no column 'path'", raw=whole(HEADER).replace(b",", b";")),
    "semicolons, what to do": Case("separated by ';'; want commas", raw=whole(HEADER).replace(b",", b";")),
    "tabs": Case("separated by tabs; want commas", raw=whole(HEADER).replace(b",", b"\t")),
    "too few cells": Case(f"{ROW}: 4 columns, the header has 5", add=["0.png,p0,train,1"]),
    "unquoted comma": Case(f"{ROW}: 6 columns, the header has 5", add=["a,b.png,p0,train,1,0"]),
    "open quote": Case(f"{ROW}: a quote is opened and never closed", add=['x.png,"p,train,1,0']),
    "text behind a quote": Case(f"{ROW}: ',' expected after '\"'", add=['"x"y.png,p,train,1,0']),
    "huge field": Case(f"{ROW}: a cell of more than 131,072 letters", add=[f'"{"x" * 11_000_000}",p,train,1,0']),
    # columns
    "no path column": Case("no column 'path'; did you mean 'paths'?", header="paths,who,part,a,b"),
    "case of a column": Case("no column 'path'; did you mean 'PATH'?", header="PATH,who,part,a,b"),
    "no patient column": Case("no column 'patient'", settings={"patient_column": "patient"}),
    "no label column": Case(
        "labels.csv: class_names: no column 'Fractures'; did you mean 'Fracture'?",
        header="path,who,part,Fracture,b",
        settings={"class_names": ["Fractures", "b"]},
    ),
    "column twice": Case("column 'a' is there twice", header="path,who,part,a,a"),
    "nameless columns": Case("2 columns have no name", header="path,who,part,,"),
    "control letters in a column": Case(r"column 'a\x1b[31m' has a character", header="path,who,part,a\x1b[31m,b"),
    "a line break in a column": Case(r"column 'a\nb' has a character", header='path,who,part,"a\nb",b'),
    "no classes": Case("found 0 columns of 0/1, want two or more", edit=lambda rows: cells(3, "7")(cells(4, "7")(rows))),
    "words for labels": Case("row 2: class 'a' is 'yes'", edit=cells(3, "yes")),
    "class in head and tail": Case("a in head and in tail", settings={"head": ["a"], "tail": ["a"]}),
    "tail that is no class": Case("no class 'aa'; did you mean 'a'?", settings={"tail": ["aa"]}),
    "all tail": Case("at least one must be head", settings={"n_tail": 2}),
    # labels
    "label yes": Case(f"{ROW}: class 'a' is 'yes'; {ALLOWED}", add=["x.png,p,train,yes,0"]),
    "label nan": Case(f"{ROW}: class 'a' is 'nan'; {ALLOWED}", add=["x.png,p,train,nan,0"]),
    "label 0.5": Case(f"{ROW}: class 'b' is '0.5'; {ALLOWED}", add=["x.png,p,train,1,0.5"]),
    "label of 1000 letters": Case("xxx…'; allowed", add=[f"x.png,p,train,{'x' * 1000},0"]),
    "control letters": Case(r"class 'a' is '\x1b[31m'", add=["x.png,p,train,\x1b[31m,0"]),
    # patients and parts
    "blank patient": Case("row 3: column 'who' is blank", edit=cells(1, r1="")),
    "unknown part": Case(
        "row 3: column 'part' is 'holdout'; allowed: train, val, test", edit=cells(2, r1="holdout"), settings=OFFICIAL
    ),
    "patient in two parts": Case(
        "row 6: patient 'p2' is in train, in row 7 in val", edit=cells(2, r4="train"), settings=OFFICIAL
    ),
    "no val": Case("split: val is empty", edit=cells(2, "test", only="val"), settings=OFFICIAL),
    "no positives in test": Case(
        "split: class 'b' has 0 positives in test, split.min_positives asks for 1",
        edit=cells(4, "0", only="test"),
        settings=OFFICIAL,
    ),
    "all positive": Case("split: class 'b' has no negative in train", edit=cells(4, "1")),
    "positive or blank": Case("say in the data set's settings 'blank: negative'", edit=lambda rows: [r[:-1] + r[-1].replace("0", "") for r in rows]),
    "one image of a class": Case(
        "split.min_positives asks for 1 (1 in all, of 1 patient)", edit=lambda r: cells(4, r0="1")(cells(4, "0")(r))
    ),
    "no image of a class": Case("class 'b' has 0 positives in train", edit=cells(4, "0")),
    "min_positives": Case("split.min_positives asks for 9", split={"min_positives": 9}),
    "two patients": Case("2 patients cannot fill train, val and test", edit=lambda r: cells(1, "p1", only="val")(r)[4:8]),
    "impossible shares": Case("mine.yaml.split: val and test leave nothing to train on", split={"val": 0.5, "test": 0.6}),
    # paths
    "blank path": Case(f"{ROW}: the path is blank", add=[",p,train,1,0"]),
    "same path": Case(f"{ROW}: 0.png: the same picture as row 2", add=["0.png,p,train,1,0"]),
    "same path in other words": Case("x/../0.png: the same picture as row 2", add=["x/../0.png,p,train,1,0"]),
    "a link to another": Case("l.png: the same picture as row 2", add=["l.png,p,train,1,0"], prepare=link("0.png", "l.png")),
    "path above": Case("../x.png: leads out of the root", add=["../x.png,p,train,1,0"]),
    "absolute path": Case("/etc/hostname: leads out of the root", add=["/etc/hostname,p,train,1,0"]),
    "path of a folder": Case("sub: is a folder", add=["sub,p,train,1,0"], prepare=lambda r: (r / "sub").mkdir()),
    "a pipe": Case("pipe: not a file", add=["pipe,p,train,1,0"], prepare=lambda r: os.mkfifo(r / "pipe")),
    "empty picture": Case("z.png: the file is empty", add=["z.png,p,train,1,0"], prepare=lambda r: (r / "z.png").touch()),
    "link out": Case(
        "l.png: a link that leads out of the root; set follow_links: true",
        add=["l.png,p,train,1,0"],
        prepare=link("../outside.png", "l.png"),
    ),
    "folder that links out": Case(
        "l/outside.png: a link that leads out of the root",
        add=["l/outside.png,p,train,1,0"],
        prepare=link("..", "l"),
    ),
    "link to nowhere": Case("l.png: a link to nowhere", add=["l.png,p,train,1,0"], prepare=link("l.png", "l.png")),
    "other case": Case("0.PNG: no such file; there is '0.png'", add=["0.PNG,p,train,1,0"]),
    "backslashes": Case("no such file; write / between folders", add=[r"a\0.png,p,train,1,0"]),
    "missing pictures": Case("4 bad rows: row 2: 0x.png: no such file", edit=lambda r: [f"{i}x.png,p,val,1,0" for i in range(4)] + r),
    "some shown": Case("and 1 more", edit=lambda r: [f"{i}x.png,p,val,1,0" for i in range(4)] + r),
    "all backslashes": Case(
        "check 'root'; write / between folders", edit=lambda r: [".\\" + row for row in r]
    ),
    "wrong root": Case("none of the 24 pictures is below the root", settings={"root": "/usr"}),
    "no root": Case("no such folder; check the setting 'root'", settings={"root": "/no/such/place"}),
    "no such class to augment": Case("no class 'bb' in the data set; did you mean 'b'?", more={"augment": {"counts": {"bb": 1}}}),
}  # fmt: skip


@pytest.mark.parametrize("name", PLAN)
def test_what_the_csv_tells_is_refused_before_anything_is_computed(bench: Bench, tmp_path: Path, name: str) -> None:
    case = PLAN[name]
    said = bench("run", case.matrix(tmp_path), "--store", tmp_path / "store", "--wandb", "off", "--jobs", 1)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert len(said.err) < 700
    assert case.said in said.err
    assert not (tmp_path / "store").exists()
