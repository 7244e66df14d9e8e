"""The notebooks: each is paired with a Markdown file, and runs from the first cell to the last."""

import json
import os
import pathlib
import re
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
PATH = os.environ["PATH"]
NAMES = ("quickstart", "own_data", "paper_tpu")


def cells(name, kind="code"):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_markdown_are_the_same(name):
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / f"{name}.md").read_text(), re.DOTALL)
    sources = ["".join(cell["source"]).rstrip() for cell in cells(name)]
    assert [block.rstrip() for block in blocks] == sources
    assert "REPOSITORY = " in sources[0] and "%pip install" in sources[0]
    for cell in cells(name):
        source = "".join(cell["source"]).replace("\\\n", " ")
        compile(re.sub(r"(?m)^( *)[%!].*", r"\1pass", source), name, "exec")
        assert all(output["output_type"] != "error" for output in cell["outputs"])
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000


# What a short run prints, as far as it says that something was learnt.
EXPECTED = {
    "quickstart": r"(?s)plain: +test accuracy ([\d.]+)%.*reweighted: test accuracy ([\d.]+)%",
    "own_data": r"folder: test error ([\d.]+)%",
    "paper_tpu": r"step 2: test accuracy ([\d.]+)%",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("ipykernel", reason="needs the extra `notebooks`")
    jupytext = pytest.importorskip("jupytext", reason="needs the extra `notebooks`")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
    monkeypatch.setenv("NOTEBOOK_SMALL", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2" if name == "paper_tpu" else "1")
    monkeypatch.setenv("PATH", os.pathsep.join([str(pathlib.Path(sys.executable).parent), PATH]))
    notebook = jupytext.read(FOLDER / f"{name}.md")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    (found,) = re.findall(EXPECTED[name], text)
    if name == "quickstart":
        plain, reweighted = map(float, found)
        assert reweighted > plain + 15
        assert (tmp_path / "labels.html").exists()
    if name == "own_data":
        (again,) = re.findall(r"again: test error ([\d.]+)%", text)
        assert 0 < float(again) < 50 and 0 < float(found) < 50  # nine in ten would be a guess
        (wrong,) = re.findall(r"(\d+) of the 100 worst labels were wrong", text)
        assert int(wrong) >= 80  # 40% of all are
    if name == "paper_tpu":
        assert "CpuDevice(id=1)" in text
