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


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(blocks(README)) >= 3
    scope = {}
    for block in blocks(README):
        exec(compile(block, "README.md", "exec"), scope)


@pytest.mark.parametrize("section", EXTENDING.split("\n## ")[1:], ids=lambda section: section.splitlines()[0])
def test_each_way_to_extend_runs_alone_and_prints_what_the_page_says(section, capsys):
    (block,) = blocks(section)
    exec(compile(block, "docs/extending.md", "exec"), {"__name__": "extending"})
    (promised,) = re.findall(r"^It prints `(.*?)`", section, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [promised]


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
