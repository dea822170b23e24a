"""The training loop: data in, checkpoints and history out."""

from pyro_aevb.data_source import Data
from pyro_aevb.training.checkpoint import Checkpoints
from pyro_aevb.training.fit import fit
from pyro_aevb.training.history import History, Record
from pyro_aevb.training.ranks import process_group
from pyro_aevb.training.saved_pair import load_pair, save_pair
from pyro_aevb.training.tensorboard import TensorBoard

__all__ = [
    "Checkpoints",
    "Data",
    "History",
    "Record",
    "TensorBoard",
    "fit",
    "load_pair",
    "process_group",
    "save_pair",
]
