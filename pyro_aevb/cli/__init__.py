"""The command line ``pyro-aevb``: a run from a configuration."""

import pyro_aevb.cli.report  # noqa: F401  # its command is one of app's from then on
from pyro_aevb.cli.app import app

__all__ = ["app"]
