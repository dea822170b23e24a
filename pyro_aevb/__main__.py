"""``python -m pyro_aevb`` is ``pyro-aevb``."""

from pyro_aevb.cli import app

app(prog_name="pyro-aevb")
