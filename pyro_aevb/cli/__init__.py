"""The command line ``pyro-aevb``: a run from a configuration."""

from pyro_aevb.cli.app import app

__all__ = ["app"]
