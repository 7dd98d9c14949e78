"""The tutorial is a notebook: this executes it, and makes a page of it.

python -m scripts.docs_site.notebook     executes docs/tutorial.ipynb in an empty folder, and keeps the outputs in it
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/tutorial.ipynb"
CELL_SECONDS = 300
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What colors text in a terminal."""


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Executes every cell in ``folder`` by the interpreter that runs this, and puts the outputs into the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised, or a command in it failed.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with tempfile.TemporaryDirectory(prefix="safe-kernel-") as sockets:  # in place of ports
        kernel = AsyncKernelManager(transport="ipc", ip=f"{sockets}/kernel")
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=CELL_SECONDS,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=environment)
    _drop_what_differs_between_runs(notebook, folder)
    notebook.metadata["sources_sha256"] = sources_sha256(notebook)


def sources_sha256(notebook: NotebookNode) -> str:
    """Digest of the code that the outputs are of."""
    sources = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(sources.encode()).hexdigest()


def to_markdown(notebook: NotebookNode) -> str:
    """The notebook as a page: each cell, and below it what it printed.

    Raises:
        ValueError: a cell ended with an error, or an output is neither text nor a PNG.
    """
    parts = []
    for cell in notebook.cells:
        parts.append(cell.source if cell.cell_type == "markdown" else _code(cell.source))
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n"


def _code(source: str) -> str:
    language = "python"
    if source.startswith("%%bash\n"):
        language, source = "bash", source.removeprefix("%%bash\n")
    return f"```{language}\n{source}\n```"


def _output(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return f"```text\n{_ESCAPES.sub('', output.text).rstrip()}\n```"
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{data['image/png'].strip()})"
    if "text/plain" in data:
        return f"```text\n{data['text/plain']}\n```"
    raise ValueError(f"expected an output that is text or a PNG, got {output.output_type}; correct the cell")


def _drop_what_differs_between_runs(notebook: NotebookNode, folder: Path) -> None:
    """Times of cells, and the name of the temporary folder in what they printed."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace(str(folder), "/tutorial")


def main() -> None:
    """Executes the notebook and writes it back."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory(prefix="safe-tutorial-") as folder:
        execute(notebook, Path(folder))
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
