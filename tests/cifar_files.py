"""Files of the layout of CIFAR-10 and CIFAR-100, with generated images, pickled as Python 2 did for the official ones."""

import struct
from pathlib import Path

import numpy as np


def python2(value) -> bytes:
    """Return the opcodes (protocol 2) with which Python 2 and numpy pickle a value; texts are its byte strings."""
    if isinstance(value, str):
        text = value.encode("latin1")
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text
    if value is None:
        return b"N"
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(map(python2, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
    fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    kind = b"cnumpy\ndtype\n" + python2((value.dtype.str[1:], 0, 1)) + b"R"
    kind += python2((3, value.dtype.str[0], None, None, None, -1, -1, 0)) + b"b"
    raw = python2(value.tobytes("F" if fortran else "C").decode("latin1"))
    state = python2(1) + python2(value.shape) + kind + python2(bool(fortran)) + raw
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        + python2((0,))
        + python2("b")
        + b"tR("
        + state
        + b"tb"
    )


def write(path: Path, content) -> None:
    path.write_bytes(b"\x80\x02" + python2(content) + b".")


def cifar_files(root: Path, n_classes=10, n_train=20, n_test=6, order="C") -> Path:
    """Write a set with so many images of each class; return its folder. Images of a class have a colour in common."""
    draw, names = np.random.default_rng(n_classes), [f"thing_{i}" for i in range(n_classes)]
    tint = draw.integers(0, 100, (n_classes, 3, 1))
    fine = n_classes == 100
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    labels = {
        part: draw.permutation(np.repeat(np.arange(n_classes), n)) for part, n in (("train", n_train), ("test", n_test))
    }
    pieces = {"train": [labels["train"]] if fine else np.array_split(labels["train"], 5), "test": [labels["test"]]}
    files = {
        "train": ["train"] if fine else [f"data_batch_{i}" for i in range(1, 6)],
        "test": ["test" if fine else "test_batch"],
    }
    for part, mine in pieces.items():
        for name, classes in zip(files[part], mine, strict=True):
            pixels = draw.integers(0, 156, (len(classes), 3, 32 * 32)) + tint[classes]
            data = np.asarray(pixels.reshape(len(classes), -1).astype(np.uint8), order=order)
            content = {"batch_label": name, "fine_labels" if fine else "labels": classes.tolist(), "data": data}
            if fine:
                content["coarse_labels"] = (classes // 5).tolist()
            write(folder / name, content | {"filenames": [f"{i}.png" for i in range(len(classes))]})
    meta = (
        {"fine_label_names": names, "coarse_label_names": ["all"]} if fine else {"label_names": names, "num_vis": 3072}
    )
    write(folder / ("meta" if fine else "batches.meta"), meta)
    return folder
