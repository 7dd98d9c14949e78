"""The tutorial runs from its first cell to its last, and the outputs in it are those of its code."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from scripts.docs_site import notebook

ROOT = Path(__file__).parents[2]
EXECUTE = """
import sys
from pathlib import Path
import nbformat
from scripts.docs_site import notebook
read = nbformat.read(sys.argv[1], as_version=4)
notebook.execute(read, Path.cwd())
nbformat.write(read, "executed.ipynb")
"""


def execute(path, folder, **environment):
    """Executes a notebook in a process of its own: Jupyter's libraries warn, and warnings are errors here."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", EXECUTE, str(path)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def kinds_of_outputs(read):
    return [[output.output_type for output in cell.outputs] for cell in read.cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tutorial_runs(stored, tmp_path, safe_cache):
    done = execute(notebook.NOTEBOOK, tmp_path, SAFE_CACHE=str(safe_cache))
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert kinds_of_outputs(executed) == kinds_of_outputs(stored)
    assert (tmp_path / "runs/report.html").is_file()
    assert (tmp_path / "adapter/model.safetensors").is_file()


def test_the_outputs_in_it_are_of_its_code(stored):
    assert stored.metadata["sources_sha256"] == notebook.sources_sha256(stored), "python -m scripts.docs_site.notebook"
    assert not [kind for kinds in kinds_of_outputs(stored) for kind in kinds if kind == "error"]


@pytest.mark.parametrize("source", ["1 / 0", "%%bash\nfalse"])
def test_a_cell_that_fails_is_found(source, tmp_path):
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(source)]), tmp_path / "failing.ipynb")
    done = execute("failing.ipynb", tmp_path)
    assert done.returncode != 0
    assert "CellExecutionError" in done.stderr


def test_a_notebook_becomes_a_page():
    png = v4.new_output("display_data", {"image/png": "aGk=\n"})
    cells = [
        v4.new_markdown_cell("# Title"),
        v4.new_code_cell("%%bash\nls", outputs=[v4.new_output("stream", text="\x1b[31mred\x1b[0m\n")]),
        v4.new_code_cell("1 + 1", outputs=[v4.new_output("execute_result", {"text/plain": "2"}), png]),
    ]
    assert notebook.to_markdown(v4.new_notebook(cells=cells)) == (
        "# Title\n\n```bash\nls\n```\n\n```text\nred\n```\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n"
        "![output](data:image/png;base64,aGk=)\n"
    )


def test_an_output_without_text_is_an_error():
    cells = [v4.new_code_cell("x", outputs=[v4.new_output("display_data", {"text/html": "<p>"})])]
    with pytest.raises(ValueError, match="text or a PNG"):
        notebook.to_markdown(v4.new_notebook(cells=cells))
