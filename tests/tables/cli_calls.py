"""Commands of the command line, run in this process."""

from typer.testing import CliRunner

from pyro_aevb.cli import app


def invoke(*args):
    """Run a command; return its result."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def succeed(*args):
    """Run a command that ends well; return its result."""
    result = invoke(*args)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result
