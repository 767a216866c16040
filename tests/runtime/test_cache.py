"""The object cache: what comes back is what went in, or nothing."""

import os
import threading
from pathlib import Path

import pytest

from rung.core.settings import configure, settings
from rung.kernel.machine import avx2_machine, avx512_machine
from rung.runtime.cache import ObjectCache, code_version, object_cache

DATA = bytes(range(256)) * 40


def test_other_processes_see_what_was_put(tmp_path: Path):
    ObjectCache(tmp_path, 1 << 20).put("k", DATA)
    again = ObjectCache(tmp_path, 1 << 20)
    assert again.get("k") == DATA
    assert again.get("other") is None
    assert (again.hits, again.misses) == (1, 1)


def test_salt_separates_versions(tmp_path: Path):
    ObjectCache(tmp_path, 1 << 20, "llvm 1").put("k", DATA)
    assert ObjectCache(tmp_path, 1 << 20, "llvm 2").get("k") is None


def _broken(raw: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "short header": raw[:10],
        "truncated": raw[:-1],
        "longer": raw + b"x",
        "flipped bit": raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:],
        "flipped digest": raw[:9] + bytes([raw[9] ^ 1]) + raw[10:],
        "other file": b"hello" * 100,
    }


@pytest.mark.parametrize("damage", list(_broken(b"." * 100)))
def test_damaged_file_counts_as_missing_and_can_be_rebuilt(tmp_path: Path, damage: str):
    cache = ObjectCache(tmp_path, 1 << 20)
    cache.put("k", DATA)
    path = cache.path("k")
    assert path is not None
    path.write_bytes(_broken(path.read_bytes())[damage])
    assert cache.get("k") is None
    assert not path.exists()
    cache.put("k", DATA)
    assert cache.get("k") == DATA


def test_folder_that_cannot_be_made(tmp_path: Path):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    cache = ObjectCache(blocker / "objects", 1 << 20)
    cache.put("k", DATA)
    assert cache.get("k") == DATA  # from memory
    assert ObjectCache(blocker / "objects", 1 << 20).get("k") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_write_permission(tmp_path: Path):
    tmp_path.chmod(0o500)
    cache = ObjectCache(tmp_path, 1 << 20)
    cache.put("k", DATA)
    assert cache.get("k") == DATA


def test_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = ObjectCache(tmp_path, 1 << 20)
    cache.put("k", DATA)
    assert cache.get("k") == DATA
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_folder_entries_stay_in_memory():
    cache = ObjectCache(None, 1 << 20)
    cache.put("k", DATA)
    assert cache.get("k") == DATA


def test_oldest_entries_are_evicted(tmp_path: Path):
    cache = ObjectCache(tmp_path, 60_000)
    for i in range(12):
        cache.put(f"k{i}", DATA)
        path = cache.path(f"k{i}")
        if path is not None and path.exists():
            os.utime(path, (1000 + i, 1000 + i))
    kept = [i for i in range(12) if cache.get(f"k{i}") is not None]
    assert kept == list(range(12 - len(kept), 12))
    assert 3 <= len(kept) <= 5
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.o")) <= 60_000


def test_threads_may_write_the_same_key(tmp_path: Path):
    cache = ObjectCache(tmp_path, 1 << 20)
    seen: list[bytes | None] = []

    def work() -> None:
        for _ in range(50):
            cache.put("k", DATA)
            seen.append(cache.get("k"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {DATA}


def test_clear(tmp_path: Path):
    cache = ObjectCache(tmp_path, 1 << 20)
    cache.put("k", DATA)
    cache.clear()
    assert cache.get("k") is None


def test_settings_choose_folder_and_machine(tmp_path: Path):
    before = settings()
    try:
        configure(cache_dir=str(tmp_path), cache=True)
        one, two = object_cache(avx2_machine()), object_cache(avx512_machine())
        one.put("k", DATA)
        assert object_cache(avx2_machine()).get("k") == DATA
        assert two.get("k") is None
        assert one.folder == tmp_path / "objects"
        configure(cache=False)
        assert object_cache(avx2_machine()).folder is None
    finally:
        configure(cache_dir=before.cache_dir, cache=before.cache)


def test_code_version_is_a_hash_of_the_sources():
    assert len(code_version()) == 64
