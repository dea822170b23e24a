"""The harness of the benchmarks: options, resume, results; and ctrl-C at every line and at random moments."""

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import harness
import jobs
import pytest
from harness import Benchmark, Plan, Task, positive
from interrupts import Interrupts
from scripts import ROOT, load_script

from pyro_aevb import AEVB, NonFiniteLossError


def options(parser):
    parser.add_argument("--steps", type=positive, default=30)


def plan(args):
    if args.steps == 13:
        raise ValueError("expected another number, got 13")
    return Plan({"steps": args.steps}, [Task(name, {"name": name}) for name in ("ab" if args.quick else "abc")])


def run(task, args, position):
    return {"runs": [task.key | {"score": float(args.steps), "curve": [{"samples": 1, "score": 1.5}]}]}


def table(result):
    return harness.aligned([["name", "score"], *([r["name"], str(r["score"])] for r in result["runs"])])


def numbers(result):
    return {f"score of {r['name']}": r["score"] for r in result["runs"]}


TOY = Benchmark("toy.py", "A toy.", options, plan, run, table, numbers, quick={"steps": 2})


def of(run):
    return functools.partial(harness.main, Benchmark("toy.py", "A toy.", options, plan, run, table, numbers))


def test_the_files_and_the_text(tmp_path, capsys):
    result = harness.main(TOY, ["--out", str(tmp_path), "--json", str(tmp_path / "there" / "n.json")])
    assert json.loads((tmp_path / "there" / "n.json").read_text()) == result
    assert result["command"] == f"python benchmarks/toy.py --out {tmp_path} --json {tmp_path / 'there' / 'n.json'}"
    assert (result["steps"], result["runs_at_a_time"], len(result["runs"])) == (30, 1, 3)
    assert set(result["versions"]) == {"pyro_aevb", "pyro", "torch", "numpy", "python"}
    assert (tmp_path / "curves.csv").read_text().splitlines() == ["name,samples,score", *(f"{n},1,1.5" for n in "abc")]
    out = capsys.readouterr().out
    assert table(result) in out
    assert "score of b: 30\n" in out


def test_quick_is_another_default(tmp_path):
    assert harness.main(TOY, ["--quick", "--out", str(tmp_path)])["steps"] == 2
    assert harness.main(TOY, ["--quick", "--steps", "5", "--out", str(tmp_path)])["steps"] == 5


@pytest.mark.parametrize("left", [False, True])
def test_a_table_is_aligned(left):
    text = harness.aligned([["a", "bb"], ["long", "1"]], left=left, rule=not left)
    assert text == ("a     bb\nlong   1" if left else "   a  bb\n--------\nlong   1")


def test_what_a_plan_refuses_ends_the_command(tmp_path):
    with pytest.raises(SystemExit, match="expected another number, got 13"):
        harness.main(TOY, ["--steps", "13", "--out", str(tmp_path)])


def test_resume_keeps_what_is_whole_and_makes_the_rest(tmp_path):
    path, made = tmp_path / "results.json", []

    def counted(task, args, position):
        made.append(task.label)
        return {**run(task, args, position), "last": task.label}

    main = functools.partial(of(counted), ["--out", str(tmp_path), "--resume"])
    whole = main()
    assert (made, whole["last"]) == (list("abc"), "c")
    assert "--resume" not in whole["command"]
    cut = {**whole["runs"][1], "interrupted": True}
    path.write_text(json.dumps({**whole, "runs": [{**whole["runs"][0], "score": 7.0}, cut, {"name": "unknown"}]}))
    assert [(r["name"], r["score"]) for r in main()["runs"]] == [("a", 7.0), ("b", 30.0), ("c", 30.0)]
    assert made == [*"abc", *"bc"]
    with pytest.raises(SystemExit, match=r"--resume expected steps 4 in .*, got 30"):
        of(counted)(["--steps", "4", "--out", str(tmp_path), "--resume"])


def test_a_loss_that_is_not_finite_fails_its_run_alone(tmp_path):
    def fails(task, args, position):
        if task.label == "b":
            raise NonFiniteLossError("expected a finite loss, got nan")
        return run(task, args, position)

    with pytest.raises(SystemExit, match="these runs failed:\nb: expected a finite loss, got nan"):
        of(fails)(["--out", str(tmp_path)])
    assert [r["name"] for r in json.loads((tmp_path / "results.json").read_text())["runs"]] == ["a", "c"]


def test_a_run_cut_short_is_kept_and_the_last(tmp_path):
    """`fit` takes the signal for itself; its record says so."""

    def cut(task, args, position):
        return {"runs": [task.key | {"score": 1.0, "interrupted": task.label == "b"}]}

    with pytest.raises(SystemExit) as ending:
        of(cut)(["--out", str(tmp_path)])
    assert ending.value.code == 130
    assert [r["name"] for r in json.loads((tmp_path / "results.json").read_text())["runs"]] == ["a", "b"]


def test_a_run_cut_short_goes_on_where_it_was(tmp_path, monkeypatch):
    """As if there had been no ctrl-C, which comes in the middle of training."""
    script = load_script("benchmarks/compare_wake_sleep.py")
    words = ["--learners", "aevb", "--latent-dims", "2", "--samples", "4000", "--jobs", "1", "--quiet", "--out"]
    whole = script.main([*words, str(tmp_path / "whole")])

    made, cut = script.evaluation, tmp_path / "cut"
    monkeypatch.setattr(script, "evaluation", lambda *args: lambda: signal.raise_signal(signal.SIGINT) or made(*args)())
    with pytest.raises(SystemExit):
        script.main([*words, str(cut)])
    (run,) = json.loads((cut / "results.json").read_text())["runs"]
    assert run["interrupted"]
    assert run["curve"][-1]["samples"] < 2000
    assert any((cut / "checkpoints").iterdir())

    monkeypatch.setattr(script, "evaluation", made)
    steps = []
    monkeypatch.setattr(AEVB, "update", counted(AEVB.update, steps))
    again = script.main([*words, str(cut), "--resume"])
    assert 0 < len(steps) < 40
    curves = [[dict(point, seconds=None) for point in result["runs"][0]["curve"]] for result in (whole, again)]
    assert curves[1] == curves[0]
    assert not any((cut / "checkpoints").iterdir())


def counted(fn, calls):
    def counting(*args, **kwargs):
        calls.append(args)
        return fn(*args, **kwargs)

    return counting


# -- Signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_is_raised_in_a_call_and_noted_elsewhere():
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    with Interrupts() as interrupts:
        assert interrupts.call(lambda: 3) == 3
        signal.raise_signal(signal.SIGTERM)  # noted: nothing is raised
        assert interrupts.came == signal.SIGTERM
        assert interrupts.call(lambda: 3) is None
    with Interrupts() as interrupts:
        reached = []
        assert interrupts.call(lambda: [signal.raise_signal(signal.SIGINT), reached.append(1)]) is None
        assert not reached
        assert (interrupts.came, interrupts.again) == (signal.SIGINT, False)
    assert signal.getsignal(signal.SIGINT) is before


def lines_until(number, files, fn):
    """Run ``fn`` with a ctrl-C at the ``number``-th line of ``files``; return whether it had so many lines."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fn()
    finally:
        sys.settrace(before)
    return count >= number


def test_ctrl_c_at_every_line(tmp_path):
    """Every line of the harness from the first to the last, one after the other: no traceback, no half state."""
    files = {harness.__file__, jobs.__file__, sys.modules["interrupts"].__file__}
    kept, number, reached = set(), 0, True

    def command():
        with contextlib.suppress(SystemExit):
            harness.run_command(TOY, ["--quiet", "--quick", "--out", str(tmp_path / str(number))], interrupts)

    while reached:
        number += 1
        with Interrupts() as interrupts:
            reached = lines_until(number, files, command)
        assert (interrupts.came == signal.SIGINT) == reached
        path = tmp_path / str(number) / "results.json"
        runs = json.loads(path.read_text())["runs"] if path.exists() else []
        assert [r["name"] for r in runs] == ["a", "b"][: len(runs)]
        kept.add(len(runs))
    assert kept == {0, 1, 2}
    assert number > 100


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if seed < 1 else pytest.mark.exhaustive) for seed in range(10)]
)
def test_ctrl_c_at_a_random_moment(seed, tmp_path):
    """Two jobs, from the first moment that the harness has to the last: exit code 130, and whole results or none."""
    words = ["--samples", "2e3", "--latent-dims", "2", "3", "--learners", "aevb-b", "wake-sleep", "--compile", "graph"]
    folder, rng = tmp_path / "out", random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "benchmarks/compare_wake_sleep.py", *words, "--jobs", "2", "--quiet", "--out", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not folder.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    finished = (seed + 1) % 5  # after so many of four runs, and then some
    for _ in range(finished):
        assert process.stdout.readline()
    time.sleep(rng.choice([0.0, rng.uniform(0, 0.1), rng.uniform(0, 2), rng.uniform(0, 0 if finished else 20)]))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 130), err[-3000:]
    assert "Traceback" not in err, err[-3000:]
    path = folder / "results.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    assert len(runs) >= finished
    assert len({(r["learner"], r["latent_dim"]) for r in runs}) == len(runs)
    assert all(r["curve"] for r in runs)
    if process.returncode == 0:
        assert len(runs) == 4
        assert not any(r["interrupted"] for r in runs)
    else:
        assert ("the runs above are what there is" if runs else "nothing is written") in err
    assert (folder / "figure.png").exists() == bool(runs) == ("test bound of" in out)
    assert not [p.name for p in folder.iterdir() if p.name.endswith(".part")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the fallback elsewhere counts the parent, as getrusage does")
def test_a_process_peak_of_memory_is_its_own():
    held = bytearray(2 * 10**9)
    held[::4096] = b"x" * len(held[::4096])
    command = [sys.executable, "-c", "from harness import peak_memory; print(peak_memory())"]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run(command, capture_output=True, text=True, env=paths)
    assert 0.01 < float(out.stdout) < 1.5, out.stderr
