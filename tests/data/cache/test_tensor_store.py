"""Kept tensors are those that would be computed: bounds, concurrent writers, damaged files, what keys depend on."""

import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from safe_train.data.cache.tensor_store import TensorFolder, TensorStore
from tests.data.cache.stores import store

KEY, OTHER = "ab" * 32, "cd" * 32


def tensors(value: float = 1.0, size: int = 4) -> dict[str, torch.Tensor]:
    return {"values": torch.full((size,), value), "mask": torch.tensor([True, False])}


def forbidden() -> str:
    raise AssertionError("no key is needed without a folder")


def test_what_is_stored_comes_back_with_its_bits_and_dtypes(tmp_path):
    folder = TensorFolder(tmp_path)
    values = torch.tensor([0.0, -0.0, 1e-45, float("inf")])
    stored = {"values": values, "half": values.bfloat16(), "mask": torch.tensor([True])}
    folder.save(KEY, stored)
    found = folder.load(KEY)
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in stored.items()}
    assert torch.equal(found["values"].view(torch.int32), values.view(torch.int32))
    assert torch.equal(found["half"].view(torch.int16), stored["half"].view(torch.int16))
    assert folder.load(OTHER) is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.safetensors"]


def test_files_of_earlier_versions_are_found_where_they_lie(tmp_path):
    """In a folder by the first two digits of the key: a folder of a million files is slow."""
    TensorFolder(tmp_path).save(KEY, tensors())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")] == [
        f"ab/{KEY}.safetensors"
    ]


def damaged_payload(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def without_a_digest(path: Path) -> None:
    save_file(tensors(), path)


@pytest.mark.parametrize("damage", [damaged_payload, truncated, without_a_digest, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_not_trusted_and_is_replaced(tmp_path, caplog, damage):
    store(tmp_path).add("item", lambda: KEY, tensors(1.0))
    damage(TensorFolder(tmp_path).path(KEY))
    fresh = store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert fresh.find("item", lambda: KEY) is None
    assert KEY in caplog.text
    fresh.add("item", lambda: KEY, tensors(1.0))
    assert torch.equal(store(tmp_path).find("item", lambda: KEY)["values"], tensors(1.0)["values"])


def test_negative_control_the_flipped_bit_would_load_without_the_digest(tmp_path):
    folder = TensorFolder(tmp_path)
    folder.save(KEY, tensors())
    path = folder.path(KEY)
    damaged_payload(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safe_train.data.cache.tensor_store.tensors_sha256", lambda _tensors: stated(path))
        assert folder.load(KEY) is not None


def stated(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["sha256"]


def test_memory_is_bounded_and_the_longest_unused_goes_first():
    size = sum(tensor.nbytes for tensor in tensors().values())
    bounded = TensorStore(max_bytes=2 * size)
    bounded.add("a", forbidden, tensors(1.0))
    bounded.add("b", forbidden, tensors(2.0))
    assert bounded.find("a", forbidden) is not None
    bounded.add("c", forbidden, tensors(3.0))
    assert bounded.num_bytes <= bounded.max_bytes
    assert bounded.find("b", forbidden) is None
    assert bounded.find("a", forbidden) is not None
    assert bounded.find("c", forbidden) is not None


def test_one_item_larger_than_the_bound_is_still_returned():
    bounded = TensorStore(max_bytes=1)
    assert torch.equal(bounded.add("a", forbidden, tensors(size=100))["values"], torch.ones(100))
    bounded.add("b", forbidden, tensors(size=100))
    assert bounded.find("a", forbidden) is None


def test_where_nothing_can_be_written_it_is_told_once_and_the_run_goes_on(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    kept = store(blocked / "cache")
    with caplog.at_level(logging.WARNING):
        kept.add("a", lambda: KEY, tensors(1.0))
        kept.add("b", lambda: OTHER, tensors(2.0))
    assert caplog.text.count("expected room to write") == 1
    assert torch.equal(kept.find("b", lambda: OTHER)["values"], tensors(2.0)["values"])


def write_often(folder: Path, seed: int, rounds: int) -> None:
    """Writes and reads a few keys again and again; each key's tensors are a function of the key."""
    shared = TensorFolder(folder)
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        number = int(rng.integers(4))
        key, expected = f"{number:064x}", tensors(float(number), size=4096)
        if rng.random() < 0.5:
            shared.save(key, expected)
        elif (found := shared.load(key)) is not None and not torch.equal(found["values"], expected["values"]):
            raise AssertionError(f"{key}: other tensors than were written")


def test_two_processes_may_write_the_same_keys(tmp_path, recwarn):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(tmp_path, seed, 150)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    for number in range(4):
        found = TensorFolder(tmp_path).load(f"{number:064x}")
        assert torch.equal(found["values"], torch.full((4096,), float(number)))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert not list(tmp_path.rglob(".partial-*"))
