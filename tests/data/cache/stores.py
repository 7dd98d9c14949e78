"""Stores for the tests of caches."""

from pathlib import Path

from safe_train.data.cache.tensor_store import TensorFolder, TensorStore

MEBIBYTE = 2**20


def store(folder: Path, max_bytes: int = MEBIBYTE) -> TensorStore:
    return TensorStore(max_bytes, TensorFolder(folder))


def counts(found: TensorStore) -> tuple[int, int, int]:
    return found.found_in_memory, found.found_on_disk, found.computed
