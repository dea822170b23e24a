"""A folder is one writer's at a time: of another process, another thread, or another block."""

import os
import subprocess
import sys
import threading
import time

import pytest

from pyro_aevb import VAE, load, save
from pyro_aevb.files import lock
from pyro_aevb.files.lock import locked

HOLD = """
import sys, time
from pyro_aevb.files.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(lock, "SECONDS", 0.1)


def test_one_block_at_a_time_and_no_file_is_left(tmp_path):
    folder = tmp_path / "new" / "folder"
    with locked(folder), pytest.raises(BlockingIOError, match=r"nobody else writes to, got .*folder"), locked(folder):
        raise AssertionError("two hold it")
    with locked(folder):
        assert not list(folder.iterdir())


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, env={**os.environ})
    assert process.stdout.readline()
    with pytest.raises(BlockingIOError, match="which another run or process has locked; wait"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        pass


def test_two_writers_of_one_model_wait_for_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SECONDS", 10.0)
    vaes = [VAE(4, 2, hidden_dims=(n,)) for n in (3, 4)]
    errors = []

    def write(vae):
        try:
            for _ in range(20):
                save(vae, tmp_path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(vae,)) for vae in vaes]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.02)
    assert not errors
    assert load(tmp_path).hidden_dims in ([3], [4], (3,), (4,))
    assert len(list(tmp_path.iterdir())) == 2
