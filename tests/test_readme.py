"""What the pages say: Python blocks run, commands name scripts that exist, tables are those of the committed runs."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pyro
import pytest
from scipy import sparse
from scripts import load_script

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
DIAGNOSTICS = (ROOT / "docs" / "DIAGNOSTICS.md").read_text()
DATA = (ROOT / "docs" / "DATA.md").read_text()


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


FEW = "num_temperatures=5, num_warmup=15, num_samples=40, num_leapfrog=3, largest_r_hat=1.5"
NUMBER = r"-?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
# A block of Python, and the output that stands below it, if any.
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```\n(.*?)```\n)?", README, re.DOTALL)
BY_DEFAULT = 4  # the first of them


def words_and_numbers(text):
    """Return the words of an output, each number in it as #, and the numbers with how far off each may be."""
    words = " ".join(re.sub(NUMBER, "#", text).split())
    numbers = re.findall(NUMBER, text)
    decimals = [len(number.partition(".")[2]) for number in numbers]
    errors = [max(0.02 * abs(float(n)), 2 * 10.0**-d if d else 0) for n, d in zip(numbers, decimals, strict=True)]
    return words, list(zip(map(float, numbers), errors, strict=True))


def assert_printed(printed, promised):
    """Assert that an output is the promised one, but for what another machine rounds otherwise."""
    words, numbers = words_and_numbers(printed)
    expected, about = words_and_numbers(promised)
    assert words == expected, printed
    for (number, _), (value, error) in zip(numbers, about, strict=True):
        assert abs(number - value) <= error, f"{number} in place of {value}: {printed}"


@pytest.mark.parametrize(
    ("block", "promised"),
    [
        pytest.param(*example, marks=() if place < BY_DEFAULT else pytest.mark.slow, id=str(place))
        for place, example in enumerate(EXAMPLES)
    ],
)
def test_each_block_runs_alone_and_prints_what_stands_below_it(block, promised, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pyro.set_rng_seed(0)  # for what depends on chance
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert_printed(capsys.readouterr().out, promised)


def test_every_block_of_the_page_is_among_them():
    assert len(EXAMPLES) == len(blocks(README)) > 12
    assert sum(promised != "" for _, promised in EXAMPLES) > 10


def test_another_number_or_word_is_noticed():
    assert_printed("mean -20.41 ± 0.32 nats", "mean -20.40 ± 0.31 nats")
    for other in ("mean -21.4 ± 0.31 nats", "mean -20.40 ± 0.31 bits", "mean -20.40 nats", "mean 20.40 ± 0.31 nats"):
        with pytest.raises(AssertionError):
            assert_printed(other, "mean -20.40 ± 0.31 nats")


def test_the_first_screen_has_a_picture_the_commands_and_files_of_ones_own():
    first = "\n".join(README.splitlines()[:60])
    for each in (".png)", "python benchmarks/compare_wake_sleep.py", "python -m pytest", "```python", "table.csv"):
        assert each in first
    for _, path in re.findall(r"!?\[(.*?)\]\((?!http|#)(.*?)\)", README):
        assert (ROOT / path.partition("#")[0]).exists(), path


@pytest.mark.parametrize("section", EXTENDING.split("\n## ")[1:], ids=lambda section: section.splitlines()[0])
def test_each_way_to_extend_runs_alone_and_prints_what_the_page_says(section, capsys):
    (block,) = blocks(section)
    exec(compile(block, "docs/extending.md", "exec"), {"__name__": "extending"})
    (promised,) = re.findall(r"^It prints `(.*?)`", section, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [promised]


SMALLER_DIAGNOSTICS = {
    "num_gap=10": "num_gap=0",
    "num_draws=100": "num_draws=20",
    "Chains(num_chains=32)": f"Chains({FEW})",
    "num_simulations=8000, num_null=19": "num_simulations=100, num_null=19",
    "num_simulations=50": "num_simulations=10",
    "tree = to_arviz(draws, model, x)": "",  # takes packages that aren't ours; tests/diagnostics has it
}


@pytest.mark.parametrize(
    "smaller",
    [
        pytest.param(SMALLER_DIAGNOSTICS, marks=pytest.mark.slow, id="smaller"),
        pytest.param({}, marks=pytest.mark.exhaustive, id="as it is"),
    ],
)
def test_the_page_of_diagnostics_runs(smaller, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = DIAGNOSTICS
    for long, short in smaller.items():
        assert long in page
        page = page.replace(long, short)
    scope = {}
    for block in blocks(page):
        exec(compile(block, "docs/DIAGNOSTICS.md", "exec"), scope)
    assert scope["ranks"].smallest() < 0.01  # what the page says of its pair
    assert scope["coverage"].p_value < 0.01
    assert (tmp_path / "report.pdf").exists()


def test_an_anndata_gets_the_codes_of_its_cells(tmp_path, monkeypatch):
    anndata = pytest.importorskip("anndata")
    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(1.0, (40, 12)).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs={"batch": ["a", "b"] * 20})
    (block,) = blocks(DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AnnData's own
        cells.write_h5ad("cells.h5ad")
        exec(compile(block, "docs/DATA.md", "exec"), {"__name__": "__main__"})
        encoded = anndata.read_h5ad("encoded.h5ad")
    assert list(encoded.obs_names) == list(cells.obs_names)
    assert encoded.obsm["codes"].shape == (40, 5)
    assert np.isfinite(encoded.obsm["codes"]).all()


def test_the_commands_name_what_exists():
    scripts = set(re.findall(r"(?:benchmarks|examples)/\w+\.(?:py|md)", README))
    assert scripts
    for script in scripts:
        assert (ROOT / script).exists(), script


def test_every_dependency_earns_its_place():
    table = README.split("## Dependencies")[1]
    block = re.search(r"\ndependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL).group(1)
    for name in re.findall(r'"([\w-]+)', block):
        assert f"| {name} |" in table, name


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/results.json")), ids=lambda path: path.parent.name)
def test_the_tables_of_the_benchmarks_are_those_of_their_runs(path):
    result, page = json.loads(path.read_text()), (ROOT / "benchmarks/README.md").read_text()
    script = load_script(result["command"].split()[1])
    assert script.table(result) in page
    assert result["command"].split(" --out ")[0].split(" --json ")[0] in page
    if (path.parent / "figure.png").exists():
        assert f"results/{path.parent.name}/figure.png" in page
