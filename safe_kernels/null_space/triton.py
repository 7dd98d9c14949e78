"""Launches of the Triton kernels of the null-space projection: many tensors in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from safe_kernels import _triton
from safe_kernels._backend import interpreting
from safe_kernels._tables import AddressTable, addresses, block_table, constant_table, grouped
from safe_kernels._triton import cdiv, dot_precision, widen_for_dot
from safe_kernels.null_space import fallback
from safe_kernels.null_space._kernels import (
    flat_coefficients_kernel,
    flat_reduce_kernel,
    flat_subtract_kernel,
    row_projection_kernel,
)
from safe_kernels.null_space._stored import StoredBasis

MAXIMUM_RANK = 64
"""Coefficients of a row block are held in registers; a larger basis is projected by matrix products. No row block is
higher: offsets within a block are 32-bit if this many rows are."""

ROW_RANKS = (16, 32, 64)
"""Ranks are padded to these: `tl.dot` needs an inner dimension of 16 at least."""

FLAT_RANKS = (8, 16, 32, 64)

ROWS = {"half": {16: 64, 32: 64, 64: 64}, "float32": {16: 32, 32: 64, 64: 64}}
"""Rows a program owns, by padded rank. What the programs of a GPU hold is read twice, and in float32 an H100's L2 cache
has no room for 64 rows each: 0.60 ms with 32, 0.61 to 0.63 with 64 (and a stage less) for 400 tensors of 366 x 1024. At
larger ranks a basis that was loaded has to serve more rows."""

ROWS_A_WARP = 16
"""So that no warp repeats another's products."""

COLUMNS = {"half": {16: 128, 32: 128, 64: 64}, "float32": {16: 64, 32: 64, 64: 32}}
"""Columns a program holds at a time, by padded rank: the most that registers hold. That leaves two programs (three
for rank 64) a multiprocessor, and 2 x 132 x 64 rows of 1024 in bfloat16 are 35 MB: the second read finds them in the L2
cache."""

UNALIGNED_COLUMNS = {kind: {rank: columns // 2 for rank, columns in of.items()} for kind, of in COLUMNS.items()}
"""Without accesses of 16 bytes there are more addresses to hold."""

STAGES = {16: 4, 32: 3, 64: 3}
"""Tiles under way, by padded rank: all but one copied asynchronously while one is multiplied. A fourth of a larger rank
would leave a multiprocessor one program in place of two."""

STAGES_OF_SMALL_CHIPS = 3
"""The same, where a multiprocessor has less than the 228 KB of shared memory of Hopper and later."""

MUCH_MEMORY = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities (CUDA C++ Programming Guide, technical specifications); those of 8.x and 12.x have less."""

FLAT_ELEMENTS = 8192
"""Elements of a part, of which each has its own partial sums."""

REDUCED = 4096
"""Partial sums that one program adds at a time."""

FLAT_WARPS = 4
_INTERPRETER_ROWS = 16
_INTERPRETER_COLUMNS = 16
_INTERPRETER_ELEMENTS = 64
_INTERPRETER_STEP = 16
_INTERPRETER_REDUCED = 64
_OFFSETS = 2**31
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Form(NamedTuple):
    """What tells the launches of two tensors apart.

    Attributes:
        flat: whether the tensor is projected as one vector.
        dtype: of the tensor.
        basis_dtype: of the basis.
        by_vector: how the basis is stored.
        corrected: whether the basis is not orthonormal.
        rank: padded.
        aligned: whether accesses of 16 bytes are allowed.
    """

    flat: bool
    dtype: torch.dtype
    basis_dtype: torch.dtype
    by_vector: bool
    corrected: bool
    rank: int
    aligned: bool


class ProjectionLaunch:
    """The projection of tensors of given shapes, dtypes and strides, prepared.

    Tensors that are alike share a launch, or three for flat forms; one that does not allow wide accesses is in another
    group and leaves them to the others. Larger ranks and rows too long for 32-bit offsets go through PyTorch.

    Args:
        tensors: on one device; a call may bring others of the same shapes, dtypes and strides.
        bases: one for each.
        one_sided: remove only positive coefficients.
    """

    def __init__(self, tensors: Sequence[Tensor], bases: Sequence[StoredBasis], one_sided: bool) -> None:
        shapes = [(x.numel(), *u.vectors.shape) for x, u in zip(tensors, bases, strict=True)]
        filled = [i for i, (size, _, rank) in enumerate(shapes) if size and rank]
        self._rows = [i for i in filled if _native(*shapes[i])]
        self._rest = sorted(set(filled) - set(self._rows))
        self._all = len(self._rows) == len(tensors)
        self._bases, self._one_sided = bases, one_sided
        self._kept = [bases[i] for i in self._rows]
        self._dtypes = [tensors[i].dtype for i in self._rows]
        self._shapes = [shapes[i] for i in self._rows]
        # A tensor with gaps or transposed is projected as a packed copy.
        self._packed = {
            place: torch.empty_like(tensors[i], memory_format=torch.contiguous_format)
            for place, i in enumerate(self._rows)
            if not tensors[i].is_contiguous()
        }
        self._basis_places = addresses(basis.vectors for basis in self._kept)
        self._launches: list[Callable[[], None]] = []
        self._aligned: list[bool] = []
        if self._rows:
            device = tensors[0].device
            self._table = AddressTable(len(self._rows), 2, device)
            sizes = tuple((size // dimension, dimension, rank) for size, dimension, rank in self._shapes)
            self._sizes = constant_table(sizes, device)

    def __call__(self, tensors: Sequence[Tensor], places: list[int]) -> None:
        """Project these tensors, in place; `places` are their addresses."""
        if self._rows and self._all:
            self._project(tensors, places)
        elif self._rows:
            self._project([tensors[i] for i in self._rows], [places[i] for i in self._rows])
        if self._rest:
            rest = [tensors[i] for i in self._rest]
            fallback.project_null_space_(rest, [self._bases[i] for i in self._rest], self._one_sided)

    def _project(self, tensors: Sequence[Tensor], places: list[int]) -> None:
        if self._packed:
            places = list(places)
            for place, packed in self._packed.items():
                places[place] = packed.copy_(tensors[place]).data_ptr()
        if self._table.refresh([places, self._basis_places]):
            self._group(places)
        for launch in self._launches:
            launch()
        for place, packed in self._packed.items():
            tensors[place].copy_(packed)

    def _group(self, places: Sequence[int]) -> None:
        """Prepare the launches for these addresses; they stay where the alignment stays."""
        aligned = [self._allows_wide(row, place) for row, place in enumerate(places)]
        if aligned == self._aligned:
            return
        self._aligned, self._launches = aligned, []
        for form, rows in grouped(self._form(row) for row in range(len(places))).items():
            self._launches += (self._flat_launches if form.flat else self._row_launches)(form, rows)

    def _form(self, row: int) -> Form:
        basis = self._kept[row]
        rank = next(pad for pad in (FLAT_RANKS if basis.flat else ROW_RANKS) if pad >= basis.vectors.shape[1])
        return Form(
            flat=basis.flat,
            dtype=self._dtypes[row],
            basis_dtype=basis.vectors.dtype,
            by_vector=basis.by_vector,
            corrected=basis.correction is not None,
            rank=rank,
            aligned=self._aligned[row],
        )

    def _allows_wide(self, row: int, place: int) -> bool:
        """Whether every row of the tensor and of the basis begins at a multiple of 16 bytes."""
        _, dimension, rank = self._shapes[row]
        basis = self._kept[row]
        return (place | self._basis_places[row]) % 16 == 0 and dimension % 8 == 0 and (basis.by_vector or rank % 4 == 0)

    def _row_launches(self, form: Form, rows: Sequence[int]) -> list[Callable[[], None]]:
        kind = "float32" if form.dtype == torch.float32 else "half"
        columns = (COLUMNS if form.aligned else UNALIGNED_COLUMNS)[kind][form.rank]
        height = _INTERPRETER_ROWS if interpreting() else ROWS[kind][form.rank]
        counts = [cdiv(self._shapes[row][0] // self._shapes[row][1], height) for row in rows]
        blocks = block_table(tuple(counts), tuple(rows), self._sizes.device)
        constants = {
            "X": _DTYPES[form.dtype],
            "BY_VECTOR": form.by_vector,
            "ALIGNED": form.aligned,
            "ONE_SIDED": self._one_sided,
            "WIDEN": widen_for_dot(),
            "PRECISION": dot_precision(),
            "RANK": form.rank,
            "ROWS": height,
            "COLUMNS": _INTERPRETER_COLUMNS if interpreting() else columns,
            "STAGES": stages(form.rank, shares_much_memory(self._sizes.device)),
        }
        arguments = (self._table.device_table, self._sizes, blocks)
        return [_launcher(row_projection_kernel, len(blocks), arguments, constants, height // ROWS_A_WARP)]

    def _flat_launches(self, form: Form, rows: Sequence[int]) -> list[Callable[[], None]]:
        elements = _INTERPRETER_ELEMENTS if interpreting() else FLAT_ELEMENTS
        device = self._sizes.device
        counts = [cdiv(self._shapes[row][0], elements) for row in rows]
        blocks = block_table(tuple(counts), tuple(rows), device)
        partial = torch.empty((len(blocks), form.rank), dtype=torch.float32, device=device)
        coefficients = torch.empty((len(self._shapes), form.rank), dtype=torch.float32, device=device)
        tables = (self._table.device_table, self._sizes, blocks)
        step = flat_step(form.basis_dtype, form.by_vector, form.aligned, form.rank)
        constants = {
            "X": _DTYPES[form.dtype],
            "BASIS": _DTYPES[form.basis_dtype],
            "BY_VECTOR": form.by_vector,
            "ALIGNED": form.aligned,
            "RANK": form.rank,
            "ELEMENTS": elements,
            "STEP": _INTERPRETER_STEP if interpreting() else step,
        }
        reduction = (
            partial,
            constant_table((0, *accumulate(counts)), device),
            constant_table(tuple(rows), device),
            self._corrections(form, rows),
            coefficients,
        )
        reducing = {
            "ONE_SIDED": self._one_sided,
            "CORRECTED": form.corrected,
            "RANK": form.rank,
            "PARTS": max(1, (_INTERPRETER_REDUCED if interpreting() else REDUCED) // form.rank),
        }
        return [
            _launcher(flat_coefficients_kernel, len(blocks), (*tables, partial), constants, FLAT_WARPS),
            _launcher(flat_reduce_kernel, len(rows), reduction, reducing, FLAT_WARPS),
            _launcher(flat_subtract_kernel, len(blocks), (*tables, coefficients), constants, FLAT_WARPS),
        ]

    def _corrections(self, form: Form, rows: Sequence[int]) -> Tensor:
        """[rows, rank, rank] on the device, padded by zeros; one zero where there is none."""
        size = (len(rows), form.rank, form.rank) if form.corrected else (1,)
        padded = torch.zeros(size, dtype=torch.float32, device=self._sizes.device)
        for place, row in enumerate(rows):
            correction = self._kept[row].correction
            if correction is not None:
                padded[place, : correction.shape[0], : correction.shape[1]] = correction
        return padded


def stages(rank: int, much_memory: bool) -> int:
    """Tiles under way for a padded rank, where threads share much memory or not."""
    return STAGES[rank] if much_memory else min(STAGES[rank], STAGES_OF_SMALL_CHIPS)


def shares_much_memory(device: torch.device) -> bool:
    """Whether a multiprocessor has 228 KB of shared memory, as from Hopper on."""
    on_nvidia = device.type == "cuda" and torch.version.hip is None
    return on_nvidia and torch.cuda.get_device_capability(device) in MUCH_MEMORY


def flat_step(basis_dtype: torch.dtype, by_vector: bool, aligned: bool, rank: int) -> int:
    """Elements of a flat form that a program holds at a time: 16 to 64 entries of the basis a thread.

    By element, a thread holds 16; by vector, as many that its accesses along a vector can take 16 bytes.
    """
    entries = 2048 if not (by_vector and aligned) else 4096 if basis_dtype == torch.float32 else 8192
    return max(64, entries // rank)


def _native(size: int, dimension: int, rank: int) -> bool:
    return rank <= MAXIMUM_RANK and (size == dimension or dimension * MAXIMUM_RANK < _OFFSETS)


def _launcher(
    kernel: Any, grid: int, arguments: tuple[Any, ...], constants: dict[str, Any], warps: int
) -> Callable[[], None]:
    launch = _triton.PreparedLaunch(kernel, grid, device=arguments[0].device, num_warps=warps, **constants)
    return partial(launch, *arguments)
