"""Digests of whole files that are remembered: right after every change, and not read again without one."""

import hashlib
import os
from pathlib import Path

import pytest

from bench import content_digests
from bench.content_digests import digest_of, digests

HOUR = 3600


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that are read, in a home of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[Path] = []
    read = content_digests._sha256
    monkeypatch.setattr(content_digests, "_sha256", lambda path: seen.append(path) or read(path))
    monkeypatch.setattr(content_digests, "_SETTLED_NS", -HOUR * 10**9)  # as if every file had been written long ago
    return seen


def another_process() -> None:
    content_digests._once.cache_clear()


def sha(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def files(folder: Path, n: int = 5) -> list[Path]:
    paths = [folder / f"{i}.bin" for i in range(n)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * (1000 + i))
    return paths


def test_unchanged_files_are_read_once_whatever_process_asks(tmp_path, reads):
    paths = files(tmp_path)
    assert digests(paths, tmp_path) == [sha(p) for p in paths]
    assert sorted(reads) == paths
    another_process()
    assert digests(paths[::-1], tmp_path) == [sha(p) for p in paths[::-1]]
    assert len(reads) == 5


def test_bytes_in_the_middle_of_a_large_file_count(tmp_path, reads):
    path = tmp_path / "unet.safetensors"
    with open(path, "wb") as handle:
        handle.truncate(300 << 20)  # sparse: all zeros
    first = digest_of(path)
    with open(path, "r+b") as handle:
        handle.seek(150 << 20)
        handle.write(b"attn2")
    assert digest_of(path) != first
    assert digest_of(path, 64) == hashlib.file_digest(open(path, "rb"), "sha256").hexdigest()  # noqa: SIM115


@pytest.mark.parametrize("how", ["size", "mtime", "ctime", "inode"])
def test_whatever_changes_of_a_file_it_is_read_again(tmp_path, reads, how):
    paths = files(tmp_path)
    digests(paths, tmp_path)
    target, was = paths[2], paths[2].stat()
    if how == "size":
        target.write_bytes(b"longer" * 1000)
    elif how == "mtime":
        target.write_bytes(b"x" * was.st_size)
    elif how == "ctime":  # somebody set the old time again
        target.write_bytes(b"x" * was.st_size)
        os.utime(target, ns=(was.st_atime_ns, was.st_mtime_ns))
    else:
        (tmp_path / "new").write_bytes(b"x" * was.st_size)
        os.replace(tmp_path / "new", target)
    another_process()
    assert digests(paths, tmp_path) == [sha(p) for p in paths]
    assert reads[5:] == [target]


def test_a_file_that_was_written_just_now_is_not_remembered(tmp_path, reads, monkeypatch):
    monkeypatch.setattr(content_digests, "_SETTLED_NS", 2 * 10**9)
    paths = files(tmp_path)
    for path in paths[1:]:
        os.utime(path, (1e9, 1e9))  # an old mtime says nothing while the ctime is new
    assert digests(paths, tmp_path) == digests(paths, tmp_path)
    assert len(reads) == 10


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, reads, monkeypatch):
    [path] = files(tmp_path, 1)
    read = content_digests._sha256

    def changing(target: Path) -> bytes:
        found = read(target)
        target.write_bytes(b"y" * 1000)
        return found

    monkeypatch.setattr(content_digests, "_sha256", changing)
    digests([path], tmp_path)
    monkeypatch.setattr(content_digests, "_sha256", read)
    assert digests([path], tmp_path) == [sha(path)]


def test_a_cache_that_is_damaged_or_cannot_be_written_is_no_fault(tmp_path, reads):
    paths = files(tmp_path)
    digests(paths, tmp_path)
    [kept] = (tmp_path / "cache" / "bench" / "digests").iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:100], whole[:70] + bytes(10) + whole[80:], b"zz" + whole):
        kept.write_bytes(damaged)
        another_process()
        assert digests(paths, tmp_path) == [sha(p) for p in paths]
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder should be")
    another_process()
    assert digests(paths, tmp_path) == [sha(p) for p in paths]


def test_what_is_kept_names_no_file(tmp_path, reads):
    paths = files(tmp_path)
    digests(paths, tmp_path)
    [kept] = (tmp_path / "cache" / "bench" / "digests").iterdir()
    assert b".bin" not in kept.read_bytes()
    assert tmp_path.name not in kept.name


def test_processes_that_write_at_once_keep_what_the_other_found(tmp_path, reads):
    paths = files(tmp_path)
    one = content_digests._Remembered.of(tmp_path)
    digests(paths[:2], tmp_path)
    another_process()
    digests(paths[2:], tmp_path)
    one.add(b"n" * 16, b"v" * 32, b"d" * 32)
    one.save()
    another_process()
    digests(paths, tmp_path)
    assert len(reads) == 5


def test_a_file_that_is_not_there_is_an_error(tmp_path, reads):
    with pytest.raises(FileNotFoundError):
        digests([*files(tmp_path), tmp_path / "none"], tmp_path)
