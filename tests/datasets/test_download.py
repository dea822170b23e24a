"""A real download, from a server on this machine: whole and checked before it has its name."""

import functools
import hashlib
import http.server
import threading

import pytest

from pyro_aevb.datasets import download


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file.bin").write_bytes(b"pixels" * 1000)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/file.bin"
        httpd.shutdown()
        thread.join()


GOOD = "sha256:" + hashlib.sha256(b"pixels" * 1000).hexdigest()


def test_a_file_is_fetched_once(server, tmp_path, capfd):
    path = tmp_path / "cache" / "file.bin"
    assert download.fetched_file(path, [server], [GOOD]).read_bytes() == b"pixels" * 1000
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert download.fetched_file(path, ["http://127.0.0.1:9/nothing"], [GOOD]) == path
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_a_download_with_another_checksum_leaves_nothing(server, tmp_path):
    path = tmp_path / "cache" / "file.bin"
    with pytest.raises(ConnectionError, match="hash of downloaded file"):
        download.fetched_file(path, [server], ["sha256:" + "0" * 64])
    assert not list(path.parent.iterdir())


def test_the_next_mirror_is_tried(server, tmp_path):
    path = tmp_path / "cache" / "file.bin"
    assert download.fetched_file(path, [server + ".gone", server], [GOOD]).exists()
