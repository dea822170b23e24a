"""How far a trained pair can be trusted: a report, calibration on simulated data, ArviZ's formats, and pictures."""

from pyro_aevb.diagnostics.arviz_data import to_arviz
from pyro_aevb.diagnostics.local_c2st import LocalTest, l_c2st
from pyro_aevb.diagnostics.report import Dimension, Report, report
from pyro_aevb.diagnostics.sbc import RankStatistics, sbc
from pyro_aevb.diagnostics.tarp import Coverage, tarp

__all__ = [
    "Coverage",
    "Dimension",
    "LocalTest",
    "RankStatistics",
    "Report",
    "l_c2st",
    "report",
    "sbc",
    "tarp",
    "to_arviz",
]
