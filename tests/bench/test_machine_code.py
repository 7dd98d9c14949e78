"""What is read off machine code, for listings written by hand in the form that nvdisasm prints."""

from __future__ import annotations

import pytest

from bench.machine_code import innermost_loops, instruction_names, resident_programs


def listing(*lines: str) -> str:
    """Lines as nvdisasm prints them: labels at the margin, instructions behind their addresses."""
    return "\n".join(
        line if line.startswith(".L_x_") else f"        /*{16 * number:04x}*/    {line} ;"
        for number, line in enumerate(lines)
    )


NESTED = listing(
    "LDC R1, c[0x0][0x28]",
    ".L_x_0:",
    "LDG.E.128 R4, desc[UR4][R2.64]",
    ".L_x_1:",
    "LDGSTS.E.BYPASS.128 [R9], desc[UR4][R2.64], P0",
    "LDGSTS.E [R9+0x10], desc[UR4][R2.64]",
    "LDGDEPBAR",
    "DEPBAR.LE SB0, 0x2",
    "BAR.SYNC.DEFER_BLOCKING 0x0",
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR24], R24, gsb0",
    "WARPGROUP.DEPBAR.LE gsb0, 0x1",
    "@P0 BRA `(.L_x_1)",
    "STG.E.128 desc[UR4][R2.64], R4",
    "@P1 BRA `(.L_x_0)",
    "EXIT",
    ".L_x_2:",
    "BRA `(.L_x_2)",
)


def test_the_innermost_loop_of_two() -> None:
    (loop,) = innermost_loops(NESTED)
    assert (loop.instructions, loop.shortest) == (8, 8)
    assert (loop.matrix, loop.barriers) == (1, 3)
    assert (loop.async_copies, loop.wide_copies) == (2, 1)
    assert (loop.loads, loop.wide_loads, loop.stores) == (0, 0, 0)


BRANCHING = listing(
    "MOV R1, R2",
    ".L_x_0:",
    "LDG.E.64 R4, desc[UR4][R2.64]",
    "@P0 BRA `(.L_x_1)",
    "MUFU.EX2 R5, R4",
    "MUFU.EX2 R6, R4",
    "FADD R5, R5, R6",
    "BRA `(.L_x_2)",
    ".L_x_1:",
    "FFMA R5, R4, R4, R4",
    ".L_x_2:",
    "STG.E.128 desc[UR4][R2.64], R4",
    "@!P1 BRA `(.L_x_0)",
    "EXIT",
)


def test_the_shortest_way_around_takes_the_cheap_side() -> None:
    (loop,) = innermost_loops(BRANCHING)
    # load, branch, FFMA, store, branch; the dear side takes four where FFMA is one.
    assert (loop.instructions, loop.shortest) == (9, 5)
    assert (loop.special, loop.loads, loop.wide_loads, loop.stores, loop.wide_stores) == (2, 1, 0, 1, 1)


def test_a_slow_side_behind_the_function_belongs_to_the_loop() -> None:
    code = listing(
        ".L_x_0:",
        "@P0 BRA `(.L_x_1)",
        ".L_x_2:",
        "FADD R1, R1, R2",
        "@P1 BRA `(.L_x_0)",
        "EXIT",
        ".L_x_1:",
        "MUFU.LG2 R1, R1",
        "BRA `(.L_x_2)",
    )
    found = innermost_loops(code)
    assert [(loop.instructions, loop.shortest, loop.special) for loop in found] == [(5, 3, 1)]


def test_code_without_a_loop_and_the_padding_behind_it() -> None:
    assert innermost_loops(listing("MOV R1, R2", "EXIT", ".L_x_0:", "BRA `(.L_x_0)")) == []


def test_comments_and_directives_are_no_instructions() -> None:
    text = "//---- .text.kernel ----\n\t.align 128\n" + listing("@!P0 FADD.FTZ R1, R1, R2", "STL [R1], R2")
    assert instruction_names(text) == ["FADD.FTZ", "STL"]


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "programs"),
    [
        ("sm_90", 128, 0, 4, 4),  # 65536 registers / (128 x 128 threads)
        ("sm_90", 129, 0, 4, 3),  # 136 a thread
        ("sm_90", 32, 0, 4, 16),  # 64 warps
        ("sm_90", 16, 0, 1, 32),  # the most programs
        ("sm_90", 32, 113 * 1024, 4, 2),  # 228 KiB, 1 KiB of each program the system's
        ("sm_90", 32, 114 * 1024, 4, 1),
        ("sm_80", 32, 113 * 1024, 4, 1),  # 164 KiB
    ],
)
def test_resident_programs(target: str, registers: int, shared: int, warps: int, programs: int) -> None:
    assert resident_programs(target, registers, shared, warps) == programs
