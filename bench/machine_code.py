"""What NVIDIA's machine code (SASS, as `nvdisasm -c` prints it) does in its innermost loops, and how many programs fit.

A loop is found by its back edge: a branch to a label further up. Its body are the basic blocks from which the branch is
reached without passing the label again (Aho, Sethi, Ullman 1986, "Compilers", section 10.4, natural loops).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<name>[A-Z][\w.]*)(?P<rest>[^;]*);")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")

BARRIERS = r"BAR\.|WARPGROUP\.DEPBAR|DEPBAR\.LE|SYNCS\.PHASECHK"
"""Where a warp may wait: for the program's others, for asynchronous products and for asynchronous copies."""

ASYNC_COPIES = r"LDGSTS|UTMALDG|UBLKCP"
MATRIX = r"HMMA|HGMMA|UTC\w*MMA"


@dataclass(frozen=True)
class Loop:
    """An innermost loop.

    Attributes:
        instructions: in its body, each counted once.
        shortest: of them on the shortest way around, which takes the cheap side of every branch.
        matrix: matrix instructions.
        barriers: waits for other warps, products or copies.
        async_copies: global-to-shared copies that do not pass a register (tensor copies count as one).
        wide_copies: of them those of 16 bytes or of a tensor.
        loads: global loads to registers.
        wide_loads: of them those of 16 bytes.
        stores: global stores.
        wide_stores: of them those of 16 bytes.
        special: instructions of the special-function unit (exponentials, logarithms, reciprocals), a quarter as fast.
        spills: registers stored to or loaded from local memory.
    """

    instructions: int
    shortest: int
    matrix: int
    barriers: int
    async_copies: int
    wide_copies: int
    loads: int
    wide_loads: int
    stores: int
    wide_stores: int
    special: int
    spills: int


@dataclass
class _Block:
    """Instructions without a branch between them, and where control goes from there."""

    names: list[str]
    successors: list[int]


def innermost_loops(code: str) -> list[Loop]:
    """The innermost loops of the first function of a listing, in the order of their labels."""
    blocks = _basic_blocks(code)
    bodies = _natural_loops(blocks)
    innermost = [
        (head, tail, body)
        for head, tail, body in bodies
        if not any(head != other and other in body for other, _, _ in bodies)
    ]
    return [_loop(blocks, *found) for found in innermost if sum(len(blocks[i].names) for i in found[2]) > 1]


def count(pattern: str, names: Iterable[str]) -> int:
    """How many instructions match a pattern from their first letter on."""
    return sum(re.match(pattern, name) is not None for name in names)


def instruction_names(code: str) -> list[str]:
    """All instructions of a listing, with their suffixes."""
    return [match["name"] for line in code.splitlines() if (match := _INSTRUCTION.match(line))]


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of a streaming multiprocessor.

    Source: CUDA C++ Programming Guide 13.0, "Compute Capabilities"; 1 KiB of shared memory a program is the system's.
    """

    shared: int
    registers: int = 65536
    warps: int = 64
    programs: int = 32


MULTIPROCESSORS: Mapping[str, Multiprocessor] = {
    "sm_80": Multiprocessor(shared=164 * 1024),
    "sm_90": Multiprocessor(shared=228 * 1024),
    "sm_100": Multiprocessor(shared=228 * 1024),
}


def resident_programs(target: str, registers: int, shared: int, warps: int) -> int:
    """Programs that a multiprocessor holds at once; registers are given out 256 a warp and 8 a thread at a time."""
    limits = MULTIPROCESSORS[target]
    by_registers = limits.registers // (-(-registers // 8) * 8 * 32) // warps
    return min(by_registers, limits.shared // (shared + 1024), limits.warps // warps, limits.programs)


def _basic_blocks(code: str) -> list[_Block]:
    """Blocks in the order of the listing; a block ends before a label and after a branch."""
    blocks = [_Block([], [])]
    labels: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    falls: dict[int, bool] = {0: True}

    def begin() -> None:
        blocks.append(_Block([], []))
        falls[len(blocks) - 1] = True

    for line in code.splitlines():
        if label := _LABEL.match(line):
            if blocks[-1].names or falls[len(blocks) - 1] is False:
                begin()
            labels[label[1]] = len(blocks) - 1
            continue
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        current = len(blocks) - 1
        blocks[current].names.append(match["name"])
        operation = match["name"].split(".")[0]
        if operation in ("BRA", "EXIT", "RET", "BRX", "JMP"):
            target = _TARGET.search(match["rest"])
            if operation == "BRA" and target:
                branches.append((current, target[1]))
            falls[current] = match["guard"] is not None or "DIV" in match["name"]
            begin()
    for source, label_name in branches:
        if label_name in labels:
            blocks[source].successors.append(labels[label_name])
    for index in range(len(blocks) - 1):
        if falls[index]:
            blocks[index].successors.append(index + 1)
    return blocks


def _natural_loops(blocks: list[_Block]) -> list[tuple[int, int, set[int]]]:
    """(head, tail, body) of every back edge; those of one head are one loop, whose last tail counts."""
    predecessors: list[list[int]] = [[] for _ in blocks]
    for index, block in enumerate(blocks):
        for successor in block.successors:
            predecessors[successor].append(index)
    reachable = _reachable(blocks)
    tails: dict[int, list[int]] = {}
    for index, block in enumerate(blocks):
        for successor in block.successors:
            if successor <= index and index in reachable:
                tails.setdefault(successor, []).append(index)
    found = []
    for head, ends in sorted(tails.items()):
        body, waiting = {head}, list(ends)
        while waiting:
            index = waiting.pop()
            if index not in body:
                body.add(index)
                waiting += predecessors[index]
        if min(body) == head or 0 not in body:  # else it is a jump back into code that is no loop's
            found.append((head, ends[-1], body))
    return found


def _reachable(blocks: list[_Block]) -> set[int]:
    seen, waiting = {0}, [0]
    while waiting:
        for successor in blocks[waiting.pop()].successors:
            if successor not in seen:
                seen.add(successor)
                waiting.append(successor)
    return seen


def _loop(blocks: list[_Block], head: int, tail: int, body: set[int]) -> Loop:
    names = [name for index in sorted(body) for name in blocks[index].names]
    figures: dict[str, Any] = {
        "matrix": count(MATRIX, names),
        "barriers": count(BARRIERS, names),
        "async_copies": count(ASYNC_COPIES, names),
        "wide_copies": count(r"LDGSTS\S*\.128|UTMALDG|UBLKCP", names),
        "loads": count(r"LDG\b", names),
        "wide_loads": count(r"LDG\.\S*128", names),
        "stores": count(r"STG\b", names),
        "wide_stores": count(r"STG\.\S*128", names),
        "special": count(r"MUFU", names),
        "spills": count(r"LDL|STL", names),
    }
    return Loop(instructions=len(names), shortest=_shortest(blocks, head, body), **figures)


def _shortest(blocks: list[_Block], head: int, body: set[int]) -> int:
    """Instructions on the shortest way from a loop's head around to it again."""
    best = {head: len(blocks[head].names)}
    waiting, around = [head], []
    while waiting:
        index = waiting.pop(0)
        for successor in blocks[index].successors:
            if successor == head:
                around.append(best[index])
            elif successor in body:
                cost = best[index] + len(blocks[successor].names)
                if cost < best.get(successor, 10**9):
                    best[successor] = cost
                    waiting.append(successor)
    return min(around)
