"""How far a trained pair can be trusted: calibration on simulated data, and pictures of it."""

from pyro_aevb.diagnostics.local_c2st import LocalTest, l_c2st
from pyro_aevb.diagnostics.sbc import Ranks, sbc
from pyro_aevb.diagnostics.tarp import Coverage, tarp

__all__ = ["Coverage", "LocalTest", "Ranks", "l_c2st", "sbc", "tarp"]
