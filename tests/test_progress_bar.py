"""A bar moves where somebody looks at it, and writes a line a minute where nobody does."""

import sys

import pytest

from pyro_aevb.progress_bar import A_LOG, in_notebook, progress_bar


class Stream:
    def __init__(self, tty):
        self.tty = tty

    def isatty(self):
        return self.tty

    def write(self, text):
        return len(text)

    def flush(self): ...


class OutStream(Stream):
    """As the one of a Jupyter kernel, which is no terminal."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("stream", "notebook", "interval"),
    [(Stream(True), False, 0.1), (Stream(False), False, A_LOG), (OutStream(False), True, 0.1)],
)
def test_a_bar_moves_in_terminals_and_notebooks(stream, notebook, interval, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert in_notebook() == notebook
    with progress_bar(show=True, total=3, file=stream) as bar:
        assert bar.mininterval == interval
    assert progress_bar(show=False, total=3).disable


def test_an_option_wins_over_the_usual_one():
    with progress_bar(show=False, total=3, leave=True) as bar:
        assert bar.disable
    assert progress_bar(show=True, total=3, leave=True, delay=1e9, file=Stream(True)).leave
