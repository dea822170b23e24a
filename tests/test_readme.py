"""What the pages say: Python blocks run, commands name scripts that exist, tables are those of the committed runs."""

import json
import re
from pathlib import Path

import pytest
from scripts import load_script

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()
EXTENDING = (ROOT / "docs" / "extending.md").read_text()
DIAGNOSTICS = (ROOT / "docs" / "DIAGNOSTICS.md").read_text()


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


FEW = "num_temperatures=5, num_warmup=15, num_samples=40, num_leapfrog=3, largest_r_hat=1.5"
SMALLER = {  # what takes longest, and what it is by default; each stands in the README
    "epochs=30, patience=5": "epochs=2, patience=5",
    "epochs=20, batch_size=100": "epochs=2, batch_size=100",
    "digits.train, epochs=5": "digits.train, epochs=1",
    "AIS(100, num_leapfrog=5)": "AIS(4, num_leapfrog=5)",
    "AIS(num_temperatures=50, num_leapfrog=3)": "AIS(num_temperatures=5, num_leapfrog=3)",
    "num_steps=100": "num_steps=10",
    "samples=30_000": "samples=6_000",
    "Chains(num_chains=32)": f"Chains({FEW})",
    "Chains(num_samples=200)": f"Chains({FEW})",
}


@pytest.mark.parametrize(
    "smaller", [SMALLER, pytest.param({}, marks=pytest.mark.exhaustive)], ids=["smaller", "as it is"]
)
def test_the_python_blocks_run(smaller, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = README
    for long, short in smaller.items():
        assert long in page
        page = page.replace(long, short)
    assert len(blocks(page)) >= 3
    scope = {}
    for block in blocks(page):
        exec(compile(block, "README.md", "exec"), scope)


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
    "smaller", [SMALLER_DIAGNOSTICS, pytest.param({}, marks=pytest.mark.exhaustive)], ids=["smaller", "as it is"]
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
