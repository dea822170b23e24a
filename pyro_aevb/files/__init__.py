"""Files that are there whole or not at all, and nested states as safetensors."""

from pyro_aevb.files.atomic import write_atomically
from pyro_aevb.files.comma_separated import comma_separated
from pyro_aevb.files.safetensors_state import pack, unpack

__all__ = ["comma_separated", "pack", "unpack", "write_atomically"]
