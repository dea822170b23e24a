"""``python -m pyro_aevb`` is ``pyro-aevb``."""

from pyro_aevb.cli.app import app

app(prog_name="pyro-aevb")
