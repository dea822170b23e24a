"""The faults of :mod:`faults`, a few of each; ``python tests/faults.py`` makes them all."""

import re
import subprocess
import sys

import faults
import pytest
from faulty_files import ONE, damaged, seeded

DOCUMENT = faults.Path(__file__).parents[1] / "docs" / "FAULTS.md"


@pytest.mark.parametrize("configuration", faults.FAULTS["corrupted"].configurations)
@pytest.mark.parametrize("trials", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_corrupted_files(configuration, trials, tmp_path):
    found = faults.made(faults.FAULTS["corrupted"], configuration, trials, tmp_path)
    assert not [outcome for outcome in found if outcome.startswith("WRONG")], found
    assert found.total() == trials


def by_command(*arguments):
    """Run the command, whose children are forks of a process of its own; return its rows."""
    command = [sys.executable, faults.__file__, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=500)
    rows = [line.split("|") for line in process.stdout.splitlines()[2:]]
    assert process.returncode == 0, process.stdout + process.stderr
    return [(row[1].strip(), row[2].strip(), int(row[3]), row[4].strip()) for row in rows]


@pytest.mark.slow  # by default those of tests/vae/test_saving.py and tests/datasets/test_array_files.py
def test_hostile_files():
    rows = by_command("hostile", "--trials", "9")
    assert [row[3] for row in rows] == [f"3 {ONE}"] * 3


@pytest.mark.slow
def test_runs_that_are_stopped():
    for fault, trials in (("kill", 10), ("signal", 10), ("full disk", 3), ("kill a rank", 2)):
        rows = by_command(fault, "--trials", str(trials))
        assert sum(row[2] for row in rows) == trials
        assert len(rows) == min(trials, len(faults.FAULTS[fault].configurations))


def test_what_is_wrong_is_said(monkeypatch, tmp_path, capsys):
    def wrong(*_):
        raise AssertionError("another weight")

    fault = faults.FAULTS["corrupted"]._replace(trial=wrong, configurations=("a", "b"))
    monkeypatch.setitem(faults.FAULTS, "corrupted", fault)
    assert not faults.report("corrupted", 3, tmp_path)
    assert capsys.readouterr().out.startswith("| corrupted | a | 2 | 2 WRONG: another weight |")


def test_faults_are_shared_out_and_damage_is_damage():
    assert faults.shared_out(7, ("a", "b", "c")) == {"a": 3, "b": 2, "c": 2}
    assert faults.shared_out(1, ("a", "b")) == {"a": 1}
    content = bytes(range(50))
    made = {damaged(content, seeded("damage", number)) for number in range(100)}
    assert content not in made
    assert len(made) > 80


def test_the_document_has_every_fault_and_no_wrong_one():
    text = DOCUMENT.read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    named = {(fault, configuration) for fault, configuration, *_ in rows}
    assert named >= {(f.name, configuration) for f in faults.FAULTS.values() for configuration in f.configurations}
    for fault, configuration, trials, words in rows:
        assert "WRONG" not in words
        if fault in faults.FAULTS:
            assert sum(map(int, re.findall(r"(\d+) (?!too late)", words))) >= int(trials), (fault, configuration)
