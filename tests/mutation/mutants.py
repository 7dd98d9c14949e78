"""Small faults in a source text: each is one replacement of bytes, and what is replaced is found in the syntax tree.

Left alone is what cannot change what a program computes, or what no test is meant to fix: docstrings, annotations,
messages of errors and logs, `__repr__`, decorators, imports for type checkers.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], list[tuple[str, str]]] = {
    ast.Lt: [("<", "<="), ("<", ">=")],
    ast.LtE: [("<=", "<"), ("<=", ">")],
    ast.Gt: [(">", ">="), (">", "<=")],
    ast.GtE: [(">=", ">"), (">=", "<")],
    ast.Eq: [("==", "!=")],
    ast.NotEq: [("!=", "==")],
    ast.Is: [(r"is\b", "is not")],
    ast.IsNot: [(r"is\s+not\b", "is")],
    ast.In: [(r"in\b", "not in")],
    ast.NotIn: [(r"not\s+in\b", "in")],
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
}
_EXTREMES = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "minimum": "maximum",
    "maximum": "minimum",
    "clamp_min": "clamp_max",
    "clamp_max": "clamp_min",
    "clamp_min_": "clamp_max_",
    "clamp_max_": "clamp_min_",
}
_SILENT_FUNCTIONS = {"__repr__", "__str__"}
_LOGS = {"debug", "info", "warning", "error", "exception", "log"}


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        path: file, relative to the tree's root.
        line: line in which it begins, from 1.
        kind: what sort of fault it is.
        start: first byte that is replaced.
        end: the byte behind the last.
        before: what stood there.
        after: what stands there instead.
    """

    path: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """Tells it from the others of a revision."""
        text = f"{self.path}:{self.start}:{self.end}:{self.kind}:{self.after}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def applied(self, source: str) -> str:
        """The source with this fault.

        Raises:
            ValueError: another text stands at the place.
        """
        text = source.encode()
        if text[self.start : self.end] != self.before.encode():
            raise ValueError(f"{self.path}:{self.line}: expected {self.before!r}, got another text")
        return (text[: self.start] + self.after.encode() + text[self.end :]).decode()


def mutants_of(path: str, source: str) -> list[Mutant]:
    """All faults of a file that compile, in the order of their places."""
    found = {mutant.key: mutant for mutant in _Finder(path, source).mutants(ast.parse(source))}
    in_order = sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end, mutant.kind, mutant.after))
    return [mutant for mutant in in_order if _compiles(mutant.applied(source))]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


class _Finder:
    """Walks a syntax tree; what is left alone is not entered."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.text = path, source.encode()
        lengths = [len(line) for line in self.text.splitlines(keepends=True)]
        self.begins = [sum(lengths[:number]) for number in range(len(lengths) + 1)]

    def start(self, node: ast.AST) -> int:
        return self.begins[node.lineno - 1] + node.col_offset  # pyright: ignore[reportAttributeAccessIssue]

    def end(self, node: ast.AST) -> int:
        return self.begins[node.end_lineno - 1] + node.end_col_offset  # pyright: ignore[reportAttributeAccessIssue]

    def of(self, node: ast.AST) -> str:
        return self.text[self.start(node) : self.end(node)].decode()

    def mutant(self, kind: str, start: int, end: int, after: str) -> Mutant:
        line = self.text.count(b"\n", 0, start) + 1
        return Mutant(self.path, line, kind, start, end, self.text[start:end].decode(), after)

    def whole(self, kind: str, node: ast.AST, after: str) -> Mutant:
        return self.mutant(kind, self.start(node), self.end(node), after)

    def between(self, kind: str, left: ast.AST, right: ast.AST, pattern: str, after: str) -> Iterator[Mutant]:
        """The operator between two operands is replaced."""
        start = self.end(left)
        gap = self.text[start : self.start(right)].decode()
        code = re.sub(r"#[^\n]*", lambda comment: " " * len(comment[0].encode()), gap)
        if match := re.search(pattern, code):
            begin = start + len(gap[: match.start()].encode())
            yield self.mutant(kind, begin, begin + len(match[0].encode()), after)

    def mutants(self, node: ast.AST, function: ast.FunctionDef | None = None) -> Iterator[Mutant]:
        """Faults in a node and below it; `function` is the one around it."""
        if _is_left_alone(node):
            return
        if isinstance(node, ast.FunctionDef):
            function = node
        yield from self.here(node, function)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.mutants(child, function)

    def here(self, node: ast.AST, function: ast.FunctionDef | None) -> Iterator[Mutant]:
        """Faults in a node itself."""
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for pattern, after in _COMPARISONS[type(node.ops[0])]:
                yield from self.between("comparison", node.left, node.comparators[0], pattern, after)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            if len(node.values) == 2:
                yield from self.between("and, or", node.values[0], node.values[1], rf"\b{old}\b", new)
        elif isinstance(node, ast.BinOp | ast.AugAssign):
            yield from self.arithmetic(node)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield self.mutant("not", self.start(node), self.start(node) + len("not"), "")
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            if not _has_complement(node.test):
                yield self.whole("not", node.test, f"(not ({self.of(node.test)}))")
        elif isinstance(node, ast.Constant):
            yield from self.constant(node)
        elif isinstance(node, ast.Call):
            yield from self.call(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield self.whole("call dropped", node, "pass")
        elif isinstance(node, ast.Return) and node.value is not None and function is not None:
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
            if names and self.of(node.value) != names[0]:
                yield self.whole("argument returned", node.value, names[0])
        elif isinstance(node, ast.Slice):
            for kind, bound in (("slice start", node.lower), ("slice end", node.upper)):
                if bound is not None:
                    yield self.whole(kind, bound, "")
                    if isinstance(bound, ast.Name | ast.Constant):
                        yield self.whole(kind, bound, f"({self.of(bound)}) + 1")

    def arithmetic(self, node: ast.BinOp | ast.AugAssign) -> Iterator[Mutant]:
        left, right = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        if type(node.op) not in _ARITHMETIC or any(_is_text(operand) for operand in (left, right)):
            return
        pattern, after = _ARITHMETIC[type(node.op)]
        yield from self.between("arithmetic", left, right, pattern, after)

    def constant(self, node: ast.Constant) -> Iterator[Mutant]:
        if isinstance(node.value, bool):
            yield self.whole("True, False", node, str(not node.value))
        elif isinstance(node.value, int):
            yield self.whole("constant", node, str(node.value + 1))
            if node.value > 0:
                yield self.whole("constant", node, str(node.value - 1))
        elif isinstance(node.value, float):
            yield self.whole("constant", node, repr(2.0 * node.value) if node.value else "1.0")

    def call(self, node: ast.Call) -> Iterator[Mutant]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _EXTREMES:
            end = self.end(node.func)
            yield self.mutant("min, max", end - len(name), end, _EXTREMES[name])
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield self.without_keyword(node, keyword)

    def without_keyword(self, call: ast.Call, keyword: ast.keyword) -> Mutant:
        start, end = self.start(keyword), self.end(keyword)
        behind = re.match(rb"\s*,[ ]?", self.text[end : self.end(call)])
        if behind:
            return self.mutant("keyword dropped", start, end + behind.end(), "")
        ahead = re.search(rb",\s*$", self.text[self.end(call.func) : start])
        return self.mutant("keyword dropped", self.end(call.func) + ahead.start() if ahead else start, end, "")


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name in _SILENT_FUNCTIONS
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) in ("__all__", "__version__")
    return isinstance(node, ast.Expr) and (_is_text(node.value) or _is_log(node.value))


def _has_complement(test: ast.expr) -> bool:
    """Whether another fault is the condition's complement already."""
    if isinstance(test, ast.UnaryOp):
        return isinstance(test.op, ast.Not)
    return isinstance(test, ast.Compare) and len(test.ops) == 1


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_log(node: ast.AST) -> bool:
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_method and node.func.attr in _LOGS and "logg" in ast.unparse(node.func.value)  # pyright: ignore
