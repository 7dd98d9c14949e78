"""The runner itself, on a toy: strong tests find every fault, weak ones do not, and nothing is tried twice."""

import json
import sys
from pathlib import Path

import pytest
from coverage import CoverageData

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.reach import Measured, Reach, batches, executed
from tests.mutation.runner import Runner, Tree
from tests.mutation.selection import Neighborhood, draw

STEPS = '''"""A module."""

from __future__ import annotations


def clipped(value: int, limit: int = 3) -> int:
    """The value, at most the limit: max(1, 2) is no code here."""
    if value > limit:
        raise ValueError(f"expected at most {limit + 1 - 1}, got {value}")
    return min(value + 1, limit)
'''

STRONG = """
import pytest
from toy.steps import clipped

def test_border():
    with pytest.raises(ValueError):
        clipped(4)

def test_values():
    assert [clipped(value) for value in (0, 1, 2, 3)] == [1, 2, 3, 3]
    assert clipped(5, limit=9) == 6
"""
WEAK = """
from toy.steps import clipped

def test_type():
    assert isinstance(clipped(0), int)
"""
FAR = """
import importlib

def test_elsewhere():
    assert importlib.import_module("toy.steps").clipped(3) == 3
"""
NONE = "def test_nothing(): assert True\n"
APART = """
import subprocess, sys

def test_in_a_process_of_its_own():
    program = "from toy.steps import clipped; print(clipped(3))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "3\\n"
"""
HEADER = {"seed": 0, "revision": "one"}


@pytest.fixture(autouse=True)
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's tests need none, and start in a fraction of the time."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def tree(folder: Path, tests: dict[str, str], source: str = STEPS) -> Tree:
    files = {"toy/__init__.py": "", "toy/steps.py": source, **{f"tests/{name}": text for name, text in tests.items()}}
    files["pyproject.toml"] = '[tool.pytest.ini_options]\nmarkers = ["slow", "gpu"]\npythonpath = ["."]\n'
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Tree(folder, list(files), ("toy",), python=sys.executable, mirrors={"toy": "tests/toy"})


def run(made: Tree, output: Path, mutants: list[Mutant], **options):
    lines: list[str] = []
    results = Runner(made, output, HEADER, report=lines.append, **options).run(mutants)
    assert json.loads(output.read_text()) == results
    return results, lines


def described(source: str) -> set[tuple[str, str, str]]:
    return {(mutant.kind, mutant.before, mutant.after) for mutant in mutants_of("toy.py", source)}


def test_faults_of_a_function_and_nothing_of_its_texts():
    assert described(STEPS) == {
        ("constant", "3", "4"),
        ("constant", "3", "2"),
        ("comparison", ">", ">="),
        ("comparison", ">", "<="),
        ("argument returned", "min(value + 1, limit)", "value"),
        ("min, max", "min", "max"),
        ("arithmetic", "+", "-"),
        ("constant", "1", "2"),
        ("constant", "1", "0"),
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a = f(x, k=1 if y else 2)", ("keyword dropped", ", k=1 if y else 2", "")),
        ("a = f(k=y, l=z)", ("keyword dropped", "k=y, ", "")),
        ("a = f(k=y, l=z)", ("keyword dropped", ", l=z", "")),
        ("a = f(\n    k=y,\n)", ("keyword dropped", "k=y,", "")),
        ("f(x)", ("call dropped", "f(x)", "pass")),
        ("a = not b", ("not", "not", "")),
        ("if b:\n    c = d", ("not", "b", "(not (b))")),
        ("a = True", ("True, False", "True", "False")),
        ("a = b[:n]", ("slice end", "n", "")),
        ("a = b[:n]", ("slice end", "n", "(n) + 1")),
        ("a = b[n:]", ("slice start", "n", "")),
        ("a = b and c", ("and, or", "and", "or")),
        ("a = (b) or (c)", ("and, or", "or", "and")),
        ("a = b is not None", ("comparison", "is not", "is")),
        ("a = b in c", ("comparison", "in", "not in")),
        ("a *= b", ("arithmetic", "*", "/")),
        ("a = b // c", ("arithmetic", "//", "*")),
        ("a = x.amax(0)", ("min, max", "amax", "amin")),
        ("a = 'é' if b - c else d", ("arithmetic", "-", "+")),  # places are counted in bytes
    ],
)
def test_a_fault_of_each_kind(source, expected):
    assert expected in described(source)


@pytest.mark.parametrize(
    "source",
    [
        "def __repr__(self):\n    return 1 + 2",
        "logger.info('a', extra=1 + 2)",
        "def f(a: Literal[1]) -> Literal[2]: ...",
        "a: Literal[1] = b",
        "if TYPE_CHECKING:\n    a = 1",
        "@cache(size=1)\ndef f(): ...",
        "raise E(1 + 2)",
        "a = 'text' + 'text'",
        "from . import a",
        '"""Text."""',
    ],
)
def test_what_no_test_is_meant_to_fix_is_left_alone(source):
    assert described(source) == set()


def test_what_does_not_compile_is_not_counted():
    """At the beginning of a line, what is left without its `not` is an unexpected indent."""
    assert ("not", "not", "") in described("a = not (b)")
    assert described("not b") == set()


def test_another_text_at_the_place_is_refused():
    (mutant,) = mutants_of("toy.py", "a = True")
    with pytest.raises(ValueError, match=r"toy\.py:1: expected 'True', got another text"):
        mutant.applied("b = 'a'")


def test_strong_tests_find_every_fault(tmp_path):
    made = tree(tmp_path / "tree", {"toy/test_steps.py": STRONG})
    mutants = mutants_of("toy/steps.py", STEPS)
    results, lines = run(made, tmp_path / "out.json", mutants)
    assert (results["killed"], results["survived"], results["timeout"]) == (len(mutants), 0, 0)
    assert {entry["killed_by"] for entry in results["mutants"]} == {
        "tests/toy/test_steps.py::test_values",
        "tests/toy/test_steps.py::test_border",
    }
    assert len(lines) == 1 + len(mutants)  # the test file without a fault first
    assert (made.root / "toy/steps.py").read_text() == STEPS
    again, lines = run(made, tmp_path / "out.json", mutants)
    assert again == results
    assert lines == []  # nothing is tried twice


def test_weak_tests_let_faults_survive_and_those_from_elsewhere_are_asked_too(tmp_path):
    made = tree(tmp_path / "tree", {"toy/test_steps.py": WEAK, "other/test_far.py": FAR, "other/test_none.py": NONE})
    by_change = {(m.before, m.after): m for m in mutants_of("toy/steps.py", STEPS)}
    border, otherwise = by_change[">", ">="], by_change["1", "0"]
    found, lines = run(made, tmp_path / "out.json", [border, otherwise], workers=2)
    assert len(lines) == 3 + 2  # the test files without a fault, and the faults
    told = {entry["key"]: (entry["status"], entry["killed_by"], entry["tests"]) for entry in found["mutants"]}
    assert told == {
        border.key: ("killed", "tests/other/test_far.py::test_elsewhere", 2),
        otherwise.key: ("survived", None, 2),
    }


def test_processes_that_a_test_starts_count_as_its_own(tmp_path):
    made = tree(tmp_path / "tree", {"toy/test_apart.py": APART})
    (border,) = [m for m in mutants_of("toy/steps.py", STEPS) if m.after == ">="]
    found, _ = run(made, tmp_path / "out.json", [border])
    assert [(entry["status"], entry["tests"]) for entry in found["mutants"]] == [("killed", 1)]
    measured = json.loads((tmp_path / "out.reach.json").read_text())["files"]["tests/toy/test_apart.py"]
    assert measured["passes"]
    assert {8, 10} <= set(measured["lines"]["toy/steps.py"])  # the comparison and what is returned; not the error
    assert 9 not in measured["lines"]["toy/steps.py"]


def test_tests_that_never_end_count_as_killed_and_apart(tmp_path, monkeypatch):
    source = "def last(number):\n    while number > 0:\n        number -= 1\n    return number\n"
    test = "from toy.steps import last\ndef test(): assert last(2) == 0\n"
    made = tree(tmp_path / "tree", {"toy/test_steps.py": test}, source)
    (mutant,) = [m for m in mutants_of("toy/steps.py", source) if m.kind == "arithmetic"]
    monkeypatch.setattr("tests.mutation.runner.SLACK_SECONDS", 1.0)
    results, _ = run(made, tmp_path / "out.json", [mutant])
    assert (results["killed"], results["timeout"]) == (0, 1)
    assert results["mutants"][0]["killed_by"] == "out of time"


def test_tests_that_fail_without_a_fault_tell_nothing(tmp_path):
    made = tree(tmp_path / "tree", {"toy/test_steps.py": WEAK, "toy/test_broken.py": "from toy.steps import nothing\n"})
    mutants = mutants_of("toy/steps.py", STEPS)[:1]
    results, _ = run(made, tmp_path / "out.json", mutants)
    assert results["survived"] == 1
    assert results["failing_without_a_mutant"] == ["tests/toy/test_broken.py"]


def test_results_of_another_revision_are_not_mixed(tmp_path):
    made = tree(tmp_path / "tree", {"toy/test_steps.py": WEAK})
    (tmp_path / "out.json").write_text(json.dumps({"revision": "two", "mutants": []}))
    with pytest.raises(SystemExit, match="expected results of revision one, got two; name another --output"):
        Runner(made, tmp_path / "out.json", HEADER)


def test_packages_from_elsewhere_are_refused(tmp_path):
    """Else every fault would survive, since the tests would run the sources beside the copy."""
    made = tree(tmp_path / "tree", {"toy/test_steps.py": WEAK})
    elsewhere = Tree(made.root, made.files, ("json",), python=made.python, mirrors=made.mirrors)
    with pytest.raises(RuntimeError, match="the mutants would not be tried"):
        Runner(elsewhere, tmp_path / "out.json", HEADER).run([])


def test_a_draw_is_spread_and_a_smaller_one_is_its_beginning(tmp_path):
    root = tree(tmp_path, {"toy/test_steps.py": WEAK}).root
    (root / "toy/more.py").write_text(STEPS)
    (root / "other.py").write_text("a = 1 + 2 - 3\n")
    areas = {"toy": ("toy",), "other": ("other.py",)}
    whole = draw(root, areas, 0, 1000)
    assert draw(root, areas, 0, 5) == whole[:5]
    assert draw(root, areas, 1, 1000) != whole
    assert len({mutant.key for mutant in whole}) == len(whole)
    assert [mutant.path == "other.py" for mutant in whole[:6]] == [False, True] * 3
    assert {mutant.path for mutant in whole[:4:2]} == {"toy/steps.py", "toy/more.py"}
    assert len({mutant.kind for mutant in whole if mutant.path == "toy/steps.py"}) == 5


def test_nearest_tests_are_found_through_what_packages_hand_on(tmp_path):
    tests = {
        "toy/test_steps.py": "",
        "toy/test_through.py": "from toy import clipped\n",
        "toy/test_beside.py": "import toy.more\n",
        "toy/test_nothing.py": "",
        "other/test_direct.py": "from toy.steps import clipped\n",
    }
    root = tree(tmp_path, tests).root
    (root / "toy/__init__.py").write_text("from toy.steps import clipped\n")
    (root / "toy/more.py").write_text("a = 1\n")
    near = Neighborhood(root, {"toy": "tests/toy"})
    names = ("toy/test_steps.py", "toy/test_through.py", "toy/test_beside.py", "other/test_direct.py")
    assert near.nearest("toy/steps.py") == [f"tests/{name}" for name in names]


def test_nearest_tests_are_those_of_the_modules_own_folder_first(tmp_path):
    """Where every folder has an `api.py`, the tests of another are far away."""
    tests = {
        "toy/first/test_api.py": "",
        "toy/second/test_api.py": "",
        "toy/second/test_others.py": "",
        "toy/test_through.py": "from toy.second.api import a\n",
    }
    root = tree(tmp_path, tests).root
    for name in ("first", "second"):
        (root / "toy" / name).mkdir()
        (root / "toy" / name / "api.py").write_text("a = 1\n")
    near = Neighborhood(root, {"toy": "tests/toy"}).nearest("toy/second/api.py")
    names = ("toy/second/test_api.py", "toy/second/test_others.py", "toy/test_through.py")
    assert near == [f"tests/{name}" for name in names]


def test_tests_that_can_see_a_fault_are_those_that_execute_its_function(tmp_path):
    source = "a = 1 + 2\n\n\ndef f(b):\n    return b + 1\n\n\ndef g(b):\n    return b - 1\n"
    (tmp_path / "toy.py").write_text(source)
    lines = {"imports": [1, 4, 8], "calls f": [1, 4, 5, 8], "calls g": [1, 4, 8, 9], "neither": []}
    measured = {name: Measured(10.0 - k, name != "broken", {"toy.py": found})
                for k, (name, found) in enumerate([*lines.items(), ("broken", [1, 4, 5, 8])])}  # fmt: skip
    reach = Reach(tmp_path, measured)
    of_line = {m.line: m for m in mutants_of("toy.py", source) if m.kind == "arithmetic"}
    assert reach.tests(of_line[5], ["calls f"]) == ["calls f"]
    assert reach.tests(of_line[9], ["calls f"]) == ["calls g"]
    assert reach.tests(of_line[1], ["calls f"]) == ["calls f", "calls g", "imports"]  # the nearest, then the quickest
    compiled = Reach(tmp_path, {"near": Measured(1.0, True, {}), "far": Measured(1.0, True, {})})
    assert compiled.tests(of_line[5], ["near"]) == ["near"]  # nothing records the lines of compiled kernels


def test_batches_grow():
    seconds = dict(zip("abcdef", (50.0, 20.0, 90.0, 20.0, 300.0, 1.0), strict=True))
    assert batches("abcdef", seconds) == [["a"], ["b", "c"], ["d"], ["e", "f"]]
    assert batches("", seconds) == []


def test_what_a_killed_process_left_is_passed_over(tmp_path):
    """Half of a database, and an empty one, beside a whole one."""
    whole = CoverageData(str(tmp_path / "data.whole"))
    whole.add_lines({str(tmp_path / "module.py"): [1, 3]})
    whole.write()
    half = (tmp_path / "data.whole").read_bytes()
    (tmp_path / "data.half").write_bytes(half[: len(half) // 2])
    (tmp_path / "data.empty").write_bytes(b"")
    assert executed(tmp_path, tmp_path) == {"module.py": [1, 3]}


def test_a_module_behind_a_link_has_the_tests_that_import_it_there(tmp_path):
    for name, text in {
        "registry/lookup.py": "",
        "tests/toy/test_a.py": "from package.registry import lookup\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "registry").symlink_to("../registry")
    assert Neighborhood(tmp_path, {}).nearest("registry/lookup.py") == ["tests/toy/test_a.py"]
