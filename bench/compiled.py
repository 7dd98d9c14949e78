"""Compile every kernel configuration for GPUs that need not be there, and report what came out.

    python -m bench.compiled                       writes docs/kernels/compiled.md (some minutes)
    python -m bench.compiled --shipped --json -    the everyday subset, as JSON on standard output
    python -m bench.compiled --only "linear kl"    what these configurations' loops are made of, on standard output

Registers and spills come from the cubin (cuobjdump, nvdisasm) or the AMD assembly, shared memory from Triton. What the
innermost loops do is read off the machine code for NVIDIA's chips (`bench.machine_code`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.configurations import Configuration, configurations
from bench.machine_code import (
    MATRIX,
    MULTIPROCESSORS,
    Loop,
    count,
    innermost_loops,
    instruction_names,
    resident_programs,
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

TENSOR_COPIES = ("sm_90", "sm_100")
"""Targets with a copy engine for blocks of tensors."""

PAGE = Path(__file__).parent.parent / "docs" / "kernels" / "compiled.md"

BEFORE = PAGE.parent.parent / "results" / "compiled_before.json"
"""What the compiler made of the kernels of an earlier commit."""

SUCCESSORS = {
    "kl logits forward forward bf16": ("kl logits forward forward bf16",),
    "kl logits backward forward bf16": ("kl logits backward forward bf16",),
    "linear kl forward bf16": ("linear kl forward bf16",),
    "linear kl reverse bf16": ("linear kl reverse bf16",),
    "linear kl jsd bf16": ("linear kl jsd bf16",),
    "linear kl forward softcap bf16": ("linear kl forward softcap bf16",),
    "linear kl forward fp32": ("linear kl forward fp32",),
    "fisher diagonal bf16": ("fisher diagonal bf16",),
    "fisher diagonal fp32": ("fisher diagonal fp32",),
    "fisher diagonal one token bf16": ("fisher diagonal one token",),
    "squared-gradient average bf16": ("squared-gradient average bf16",),
    "ewc penalty bf16, anchor fp32": ("ewc penalty bf16, gradient bf16, anchor fp32",),
    "ewc penalty fp32, anchor fp32": ("ewc penalty fp32, gradient fp32, anchor fp32",),
    "row projection rank 16": ("row projection bf16 rank 8", "row projection fp32 rank 8"),
    "row projection rank 64": ("row projection bf16 rank 64", "row projection fp32 rank 64"),
    "flat coefficients rank 16": ("flat coefficients bf16, basis fp32 rank 8",),
    "flat subtraction rank 16": ("flat subtraction bf16, basis fp32 rank 8",),
    "flat reduction rank 16": ("flat reduction rank 8",),
}
"""For each of them the configurations that do its work now; the old padded rank 8 to 16."""


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one configuration for one target.

    Attributes:
        name: of the configuration.
        target: sm_80, sm_90, sm_100 or gfx942.
        registers: 32-bit registers a thread.
        spills: instructions that store a register to memory or load it back (NVIDIA), spilled registers (AMD).
        shared: bytes of shared memory a program.
        vector_loads: 128-bit global loads.
        loads: global loads in all.
        matrix: matrix instructions.
        float64: double-precision arithmetic instructions; there should be none.
        allows_vector_loads: whether the data of the configuration allow 128-bit loads.
        elements: elements that a thread handles in one round of the hot loops; 0 where they are not element-wise.
        loops: the innermost loops, in the order of the code; none for AMD.
        resident: programs that a multiprocessor holds at once; 0 for AMD.
    """

    name: str
    target: str
    registers: int
    spills: int
    shared: int
    vector_loads: int
    loads: int
    matrix: int
    float64: int
    allows_vector_loads: bool
    elements: float
    loops: tuple[Loop, ...]
    resident: int


def compile_configuration(configuration: Configuration, target: str) -> Compiled:
    """Compile one configuration for one target."""
    names = list(configuration.kernel.arg_names)
    runtime = [name for name in names if name not in configuration.constants]
    signature: dict[str, Any] = dict.fromkeys(names, "constexpr")
    signature.update(zip(runtime, configuration.types, strict=True))
    constants = {(names.index(name),): value for name, value in configuration.constants.items()}
    # Allocations begin at multiples of 16 bytes at least, and the benchmarked sizes are multiples of 16.
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or (signature[name] == "i32" and name not in configuration.odd)
    }
    source = ASTSource(configuration.kernel, signature, constants, attributes)
    kernel = triton.compile(source, target=TARGETS[target], options={"num_warps": configuration.warps})
    found = _amd(kernel.asm) if target.startswith("gfx") else _nvidia(kernel.asm)
    shared, resident = kernel.metadata.shared, 0
    if target in MULTIPROCESSORS:
        resident = resident_programs(target, found["registers"], shared, configuration.warps)
    return Compiled(
        name=configuration.name,
        target=target,
        shared=shared,
        allows_vector_loads=configuration.vector_loads,
        elements=configuration.elements / (32 * configuration.warps),
        resident=resident,
        **found,
    )


def _nvidia(asm: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _output(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name)
        code = _output(knobs.nvidia.nvdisasm.path, "-c", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"cuobjdump: expected a register count, got {usage!r}")
    names = instruction_names(code)
    return {
        "registers": int(registers.group(1)),
        "spills": count(r"(?:LDL|STL)\b", names),
        "vector_loads": count(r"LDG\S*\.128|UTMALDG", names),
        "loads": count(r"LDG(?:STS)?\b|UTMALDG", names),
        "matrix": count(MATRIX, names),
        "float64": count(r"(?:DADD|DMUL|DFMA|DSETP)\b", names),
        "loops": tuple(innermost_loops(code)),
    }


def _amd(asm: Any) -> dict[str, Any]:
    code = asm["amdgcn"]
    counts = {key: re.search(rf"\.{key}:\s+(\d+)", code) for key in ("vgpr_count", "vgpr_spill_count")}
    registers, spills = (int(match.group(1)) if match else -1 for match in counts.values())
    return {
        "registers": registers,
        "spills": spills,
        "vector_loads": len(re.findall(r"\b(?:global|buffer)_load_dwordx4\b", code)),
        "loads": len(re.findall(r"\b(?:global|buffer)_load_", code)),
        "matrix": len(re.findall(r"\bv_mfma_", code)),
        "float64": len(re.findall(r"\bv_(?:add|mul|fma)_f64\b", code)),
        "loops": (),
    }


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compile_all(targets: Iterable[str], shipped_only: bool, only: str = "", skip: str = "") -> list[Compiled]:
    """Compile all configurations, the everyday subset, or those whose names hold or lack a text, for some targets."""
    return [
        compile_configuration(configuration, target)
        for target in targets
        for configuration in configurations(TARGETS[target].backend, target in TENSOR_COPIES)
        if (configuration.shipped or not shipped_only)
        and only in configuration.name
        and not (skip and skip in configuration.name)
    ]


def page(found: list[Compiled]) -> str:
    """The table as Markdown: one row a configuration, registers / spills / shared memory / 128-bit loads a target."""
    targets = list(dict.fromkeys(result.target for result in found))
    by_name: dict[str, dict[str, Compiled]] = {}
    for result in found:
        by_name.setdefault(result.name, {})[result.target] = result
    lines = [
        "# Compiled kernels",
        "",
        "Every configuration that can be launched, compiled without a GPU. Each cell: registers a thread, spills,",
        "shared memory in KiB, 128-bit loads of all global loads, matrix instructions. Made by",
        f"`python -m bench.compiled` with triton {triton.__version__}.",
        "",
        "| configuration | " + " | ".join(targets) + " |",
        "|---|" + "---|" * len(targets),
    ]
    lines += [f"| {name} | " + " | ".join(_cell(row.get(t)) for t in targets) + " |" for name, row in by_name.items()]
    on_hopper = [result for result in found if result.target == "sm_90"]
    lines += ["", "## Before and after, on Hopper", "", *_before_and_after(on_hopper)]
    lines += ["", "## Hot loops on Hopper", "", *loop_table(on_hopper)]
    return "\n".join(lines) + "\n"


def _before_and_after(found: list[Compiled]) -> list[str]:
    """The kernels of the earlier commit, and under each its successors."""
    document = json.loads(BEFORE.read_text(encoding="utf-8"))
    by_name = {result.name: result for result in found}
    lines = [
        f"Before: commit {document['commit']}, triton {document['triton']}. The columns are those of the table below;",
        "of several loops each has its figure, rare ones (a row far apart, a masked row) among them.",
        "",
        "| kernel | | an element | instructions | mma | waits | async copies, wide | loads, wide | registers | spills "
        "| resident |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for fields in document["results"]:
        before = Compiled(**{**fields, "loops": tuple(Loop(**loop) for loop in fields["loops"])})
        lines.append(_comparison(before, "before"))
        lines += [_comparison(by_name[name], "after") for name in SUCCESSORS[before.name] if name in by_name]
    return lines


def _comparison(result: Compiled, label: str) -> str:
    def each(figure: Callable[[Loop], object]) -> str:
        return " / ".join(str(figure(loop)) for loop in result.loops)

    an_element = each(lambda loop: f"{loop.shortest / result.elements:.1f}") if result.elements else ""
    cells = (
        an_element,
        each(lambda loop: loop.shortest),
        each(lambda loop: loop.matrix),
        each(lambda loop: loop.barriers),
        each(lambda loop: f"{loop.async_copies}, {loop.wide_copies}"),
        each(lambda loop: f"{loop.loads}, {loop.wide_loads}"),
        str(result.registers),
        str(result.spills),
        str(result.resident),
    )
    return f"| {result.name} | {label} | " + " | ".join(cells) + " |"


def loop_table(found: list[Compiled]) -> list[str]:
    """What the innermost loops do, one row a loop, as lines of Markdown."""
    lines = [
        "One row an innermost loop, instructions of one warp and one round. In brackets: on the shortest way around,",
        "which takes the cheap side of a branch. An element: instructions of that way over the elements of a thread.",
        "Waits: barriers, and waits for products and copies. Wide: of 16 bytes, or a tensor copy. Special:",
        "exponentials, logarithms and reciprocals, which take four slots each. Resident: programs a multiprocessor",
        "holds at once.",
        "",
        "| configuration | target | instructions | an element | special | mma | waits | async copies, wide "
        "| loads, wide | stores, wide | registers | spills | resident |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [_loop_row(result, loop) for result in found for loop in result.loops]


def _loop_row(result: Compiled, loop: Loop) -> str:
    each = f"{loop.shortest / result.elements:.1f}" if result.elements else ""
    return (
        f"| {result.name} | {result.target} | {loop.instructions} ({loop.shortest}) | {each} | {loop.special} "
        f"| {loop.matrix} | {loop.barriers} | {loop.async_copies}, {loop.wide_copies} "
        f"| {loop.loads}, {loop.wide_loads} | {loop.stores}, {loop.wide_stores} "
        f"| {result.registers} | {loop.spills} | {result.resident} |"
    )


def _cell(result: Compiled | None) -> str:
    """Empty where a target has no such launch."""
    if result is None:
        return ""
    return (
        f"{result.registers} reg, {result.spills} spills, {result.shared / 1024:.3g} KiB, "
        f"{result.vector_loads}/{result.loads} loads, {result.matrix} mma"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--shipped", action="store_true", help="only the configurations of everyday tests")
    parser.add_argument("--json", help="write JSON to this file (- is standard output) instead of the page")
    parser.add_argument("--only", default="", metavar="TEXT", help="only configurations with this text in their names")
    parser.add_argument("--skip", default="", metavar="TEXT", help="no configurations with this text in their names")
    arguments = parser.parse_args()
    found = compile_all(arguments.targets, arguments.shipped, arguments.only, arguments.skip)
    if arguments.only and arguments.json is None:
        print("\n".join(loop_table([result for result in found if result.loops])))
    elif arguments.json is None:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")
    else:
        text = json.dumps([asdict(result) for result in found], indent=1)
        if arguments.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(arguments.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
