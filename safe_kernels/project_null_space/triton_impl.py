"""Launches of the Triton kernels of the null-space projection: many tensors in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from safe_kernels._backend import interpreting
from safe_kernels._tables import AddressTable, addresses, block_table, constant_table, group_rows
from safe_kernels._triton import TRITON_DTYPES, PreparedLaunch, cdiv, dot_precision, widen_for_dot
from safe_kernels.project_null_space import torch_impl
from safe_kernels.project_null_space.kernels import (
    flat_coefficients_kernel,
    flat_reduce_kernel,
    flat_subtract_kernel,
    row_projection_kernel,
)
from safe_kernels.project_null_space.stored_basis import StoredBasis

MAXIMUM_RANK = 64
"""Coefficients of a row block are held in registers; a larger basis is projected by matrix products. No row block is
higher: offsets within a block are 32-bit if this many rows are."""

ROW_RANKS = (8, 16, 32, 64)
"""Ranks are padded to these."""

INNER_RANK = 16
"""The second product, coefficients times basis, takes no fewer: `tl.dot` needs an inner dimension of 16 at least."""

FLAT_RANKS = (8, 16, 32, 64)


class RowTile(NamedTuple):
    """What a program of the row projection holds at a time.

    Attributes:
        rows: that it owns.
        slices: of the columns, side by side; 1 where warps share rows instead.
        columns: of a slice. Half as many without accesses of 16 bytes, which takes more addresses.
        stages: tiles under way: all but one copied asynchronously while one is multiplied.
    """

    rows: int
    slices: int
    columns: int
    stages: int

    @property
    def warps(self) -> int:
        """A slice each, or 16 rows each, so that no warp repeats another's products."""
        return self.slices if self.slices > 1 else self.rows // 16


LONG_ROWS = {"half": 2048, "float32": 1024}
"""Elements of a row beyond which a block of rows is large beside the L2 cache, and fewer of them go into one. 150 M
elements at rank 8 by the tile for short rows and by that for long ones: in float32 0.51 and 0.56 ms with rows of 1024,
0.56 and 0.53 with rows of 1536; in bfloat16 0.29 and 0.34 with 1536, 0.32 each with 2048, 0.33 and 0.31 with 4096."""

HALF_TILES = {
    8: RowTile(64, 1, 128, 4),
    16: RowTile(64, 1, 128, 4),
    32: RowTile(64, 1, 128, 3),
    64: RowTile(64, 1, 64, 3),
}
"""64 rows are what a matrix instruction of Hopper takes. The columns are the most that registers hold; that leaves two
programs (three for rank 64) a multiprocessor, and 2 x 132 x 64 rows of 1024 in bfloat16 are 35 MB."""

LONG_HALF_TILES = HALF_TILES | {8: RowTile(16, 4, 128, 3)}
"""For bases that are stored by element: 100 tensors of 1024 x 4096 at rank 8 take 0.80 ms, against 0.86 by the tile for
short rows and 0.56 for a copy. A basis stored by vector, or a larger rank, takes longer in slices. With less shared
memory a multiprocessor would hold one program, and AMD's compiler spills."""

FLOAT32_TILES = {
    8: RowTile(32, 4, 32, 4),
    16: RowTile(32, 4, 32, 4),
    32: RowTile(64, 1, 64, 3),
    64: RowTile(64, 1, 32, 3),
}
"""Of an H100's 50 MB of L2 cache, the blocks in work take 35 MB with rows of 1024; unsliced, they would take 69. 400
tensors of 366 x 1024 at rank 8: 0.52 ms, against 0.60 unsliced and 0.40 for a copy. At larger ranks a basis that was
loaded has to serve more rows."""

LONG_FLOAT32_TILES = FLOAT32_TILES | {rank: RowTile(16, 4, 64, 4) for rank in (8, 16)}
"""100 tensors of 1024 x 4096 at rank 8: 1.61 ms, against 1.70 by the tile for short rows, 1.75 unsliced and 1.11 for a
copy."""

STAGES_OF_SMALL_CHIPS = 3
"""At most, where a multiprocessor has less than the 228 KB of shared memory of Hopper and later."""

MUCH_MEMORY = ((9, 0), (10, 0), (10, 3))
"""Compute capabilities (CUDA C++ Programming Guide, technical specifications); those of 8.x and 12.x have less."""

FLAT_ELEMENTS = 8192
"""Elements of a part, of which each has its own partial sums."""

REDUCED = 4096
"""Partial sums that one program adds at a time."""

FLAT_WARPS = 4
_INTERPRETER_ELEMENTS = 64
_INTERPRETER_STEP = 16
_INTERPRETER_REDUCED = 64
_OFFSETS = 2**31


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
        tile: of row forms.
    """

    flat: bool
    dtype: torch.dtype
    basis_dtype: torch.dtype
    by_vector: bool
    corrected: bool
    rank: int
    aligned: bool
    tile: RowTile | None


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
            self._much_memory = shares_much_memory(device)
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
            torch_impl.project_null_space_(rest, [self._bases[i] for i in self._rest], self._one_sided)

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
        for form, rows in group_rows(self._form(row) for row in range(len(places))).items():
            self._launches += (self._flat_launches if form.flat else self._row_launches)(form, rows)

    def _form(self, row: int) -> Form:
        basis, dtype, dimension = self._kept[row], self._dtypes[row], self._shapes[row][1]
        rank = next(pad for pad in (FLAT_RANKS if basis.flat else ROW_RANKS) if pad >= basis.vectors.shape[1])
        read = {"by_vector": basis.by_vector, "aligned": self._aligned[row]}
        return Form(
            flat=basis.flat,
            dtype=dtype,
            basis_dtype=basis.vectors.dtype,
            corrected=basis.correction is not None,
            rank=rank,
            tile=None if basis.flat else row_tile(dtype, dimension, rank, much_memory=self._much_memory, **read),
            **read,
        )

    def _allows_wide(self, row: int, place: int) -> bool:
        """Whether every row of the tensor and of the basis, or every vector of it, begins at a multiple of 16 bytes."""
        _, dimension, rank = self._shapes[row]
        basis = self._kept[row]
        narrowest = min(self._dtypes[row].itemsize, basis.vectors.dtype.itemsize)
        whole = dimension * narrowest % 16 == 0 and (basis.by_vector or rank % 4 == 0)
        return whole and (place | self._basis_places[row]) % 16 == 0

    def _row_launches(self, form: Form, rows: Sequence[int]) -> list[Callable[[], None]]:
        tile = form.tile
        assert tile is not None
        if interpreting():
            tile = RowTile(rows=16, slices=min(2, tile.slices), columns=16, stages=1)
        counts = [cdiv(self._shapes[row][0] // self._shapes[row][1], tile.rows) for row in rows]
        blocks = block_table(tuple(counts), tuple(rows), self._sizes.device)
        constants = {
            "X": TRITON_DTYPES[form.dtype],
            "BY_VECTOR": form.by_vector,
            "ALIGNED": form.aligned,
            "ONE_SIDED": self._one_sided,
            "WIDEN": widen_for_dot(),
            "PRECISION": dot_precision(),
            "RANK": form.rank,
            "INNER": max(form.rank, INNER_RANK),
            "ROWS": tile.rows,
            "SLICES": tile.slices,
            "COLUMNS": tile.columns,
            "STAGES": tile.stages,
        }
        arguments = (self._table.device_table, self._sizes, blocks)
        return [_launcher(row_projection_kernel, len(blocks), arguments, constants, tile.warps)]

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
            "X": TRITON_DTYPES[form.dtype],
            "BASIS": TRITON_DTYPES[form.basis_dtype],
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


@lru_cache(maxsize=256)
def row_tile(
    dtype: torch.dtype, dimension: int, rank: int, *, by_vector: bool, aligned: bool, much_memory: bool
) -> RowTile:
    """The tile of a row form, by its padded rank.

    Args:
        dtype: of the tensor.
        dimension: elements of a row.
        rank: padded.
        by_vector: how the basis is stored.
        aligned: whether accesses of 16 bytes are allowed.
        much_memory: whether a multiprocessor has the shared memory of Hopper or later.
    """
    if dtype == torch.float32:
        tiles = LONG_FLOAT32_TILES if dimension > LONG_ROWS["float32"] else FLOAT32_TILES
    else:
        sliced = dimension > LONG_ROWS["half"] and not by_vector and much_memory
        tiles = LONG_HALF_TILES if sliced else HALF_TILES
    tile = tiles[rank]
    if not aligned:
        tile = tile._replace(columns=tile.columns // 2)
    return tile if much_memory else tile._replace(stages=min(tile.stages, STAGES_OF_SMALL_CHIPS))


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
    launch = PreparedLaunch(kernel, grid, device=arguments[0].device, num_warps=warps, **constants)
    return partial(launch, *arguments)
