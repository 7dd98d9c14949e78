"""Tensors that are expensive to compute, by key: in bounded memory and in a folder that several processes may share."""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safe_train.io.fingerprints import tensors_sha256
from safe_train.io.tensor_files import save_tensors

logger = logging.getLogger(__name__)

Tensors = dict[str, Tensor]

_SHA256 = "sha256"


class TensorFolder:
    """Tensors by key on disk, one safetensors file per key, each with the SHA-256 of its tensors.

    A file is written under a temporary name and renamed, so that a reader sees a complete one or none; of two
    processes that write one key, the later wins, and both have written the same.
    """

    def __init__(self, root: Path) -> None:
        """Takes a folder; it is made when something is first written."""
        self.root = root
        self._can_write = True

    def path(self, key: str) -> Path:
        """Where a key's file lies; keys are hexadecimal digests."""
        return self.root / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> Tensors | None:
        """The tensors of a key; None if there are none, or if their file is damaged, which is logged as a warning."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                stated = (file.metadata() or {}).get(_SHA256)
        except (OSError, SafetensorError) as error:
            logger.warning("%s: expected whole safetensors, got %s; computed again", path, " ".join(str(error).split()))
            return None
        if tensors_sha256(tensors.items()) != stated:
            logger.warning("%s: expected tensors of SHA-256 %s, got others; computed again", path, stated)
            return None
        return tensors

    def save(self, key: str, tensors: Tensors) -> None:
        """Writes the tensors of a key. Where that fails it is reported once, and nothing more is written."""
        if not self._can_write:
            return
        path = self.path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as staging:
                partial = Path(staging) / path.name
                save_tensors(tensors, partial, metadata={_SHA256: tensors_sha256(tensors.items())})
                partial.replace(path)
        except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
            self._can_write = False
            logger.warning("%s: expected room to write, got %s; nothing more is kept there", self.root, error)


class TensorStore:
    """Tensors by key in memory, with least recently used eviction, and in a folder if there is one.

    Evicted tensors are read or computed again. They are kept on the CPU, whatever device they came from.

    Attributes:
        max_bytes: bound of the memory; the last tensors put or read stay even if they alone exceed it.
        num_bytes: bytes held in memory.
        folder: the folder, or None.
        found_in_memory, found_on_disk, computed: how often ``get`` found what it was asked for there.
    """

    def __init__(self, max_bytes: int, folder: TensorFolder | None = None) -> None:
        self.max_bytes, self.folder = max_bytes, folder
        self.num_bytes = 0
        self.found_in_memory = self.found_on_disk = self.computed = 0
        self._kept: OrderedDict[Hashable, Tensors] = OrderedDict()

    def find(self, item: Hashable, digest: Callable[[], str]) -> Tensors | None:
        """The item's tensors, or None.

        Args:
            item: names it within this process.
            digest: gives its key on disk; asked only if it is not in memory and there is a folder.
        """
        tensors = self.recall(item)
        if tensors is None and self.folder is not None:
            tensors = self.folder.load(digest())
            if tensors is not None:
                self.add_stored(item, tensors)
        return tensors

    def __contains__(self, item: Hashable) -> bool:
        """Whether the item is in memory."""
        return item in self._kept

    def recall(self, item: Hashable) -> Tensors | None:
        """The item's tensors, if they are in memory."""
        if item not in self._kept:
            return None
        self.found_in_memory += 1
        self._kept.move_to_end(item)
        return self._kept[item]

    def add_stored(self, item: Hashable, tensors: Tensors) -> None:
        """Keeps what was read from the folder."""
        self.found_on_disk += 1
        self._keep(item, {name: _alone(tensor) for name, tensor in tensors.items()})

    def add(self, item: Hashable, digest: Callable[[], str], tensors: Tensors) -> Tensors:
        """Keeps what ``find`` did not find; returns it as it will be found."""
        self.computed += 1
        kept = {name: _alone(tensor.detach().cpu()) for name, tensor in tensors.items()}
        if self.folder is not None:
            self.folder.save(digest(), kept)
        self._keep(item, kept)
        return kept

    def _keep(self, item: Hashable, tensors: Tensors) -> None:
        self._kept[item] = tensors
        self.num_bytes += _num_bytes(tensors)
        while self.num_bytes > self.max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= _num_bytes(dropped)


def computing_device(device: torch.device) -> dict[str, str | int]:
    """What decides in which order a device takes its sums, and so the last bits of what it computes."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {"device": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}


def _alone(tensor: Tensor) -> Tensor:
    """The tensor without the memory of what it is a part of."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor.contiguous() if whole else tensor.contiguous().clone()


def _num_bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
