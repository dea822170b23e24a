"""Every Python block of the README runs, in order, and every command in it names a script that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)


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
