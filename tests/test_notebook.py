"""A notebook as somebody runs it: its promised number, bars that move, figures that show, outputs that are short."""

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "conditional_model.ipynb"
LARGEST = 200_000  # bytes
MOST_LINES = 60  # of code


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Return the cells of the notebook after it has run."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    return notebook.cells


def outputs(cells, kind):
    return [each for cell in cells for each in cell.get("outputs", []) if each["output_type"] == kind]


def printed(cells, name):
    return "".join(each["text"] for each in outputs(cells, "stream") if each["name"] == name)


pytestmark = pytest.mark.filterwarnings("default")  # those of Jupyter's packages


@pytest.mark.slow
def test_the_promised_number_is_what_comes_out(cells):
    text = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    promised = int(re.search(r"right for about (\d+) of 100", text).group(1))
    found = float(re.search(r"accuracy ([\d.]+)", printed(cells, "stdout")).group(1))
    assert found == pytest.approx(promised / 100, abs=0.04)


def test_log_p_is_above_the_bound_by_less_than_a_nat(cells):
    bound = float(re.search(r"BoundEstimate\(N=360, mean (-[\d.]+)", printed(cells, "stdout")).group(1))
    shown = [each["data"]["text/plain"] for each in outputs(cells, "execute_result")]
    (evidence,) = (text for text in shown if text.startswith("Evidence("))
    assert 0 < float(re.search(r"mean (-[\d.]+)", evidence).group(1)) - bound < 1
    assert all(len(text) < 300 for text in shown), shown


def test_bars_move_and_figures_show(cells):
    shown = re.findall(r"\d+%", printed(cells, "stderr"))
    assert len(set(shown)) > 3, "a bar that stands still"
    assert [list(each["data"]) for each in outputs(cells, "display_data")] == [["text/plain", "image/png"]]


def test_the_file_is_small_and_holds_its_own_outputs():
    nbformat = pytest.importorskip("nbformat")
    assert NOTEBOOK.stat().st_size < LARGEST
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert sum(bool(line.strip()) for cell in code for line in cell["source"].splitlines()) < MOST_LINES
    assert all(each.get("name") != "stderr" for each in outputs(notebook.cells, "stream"))
    assert outputs(notebook.cells, "display_data")
