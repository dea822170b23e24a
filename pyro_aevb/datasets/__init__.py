"""Data sets and array files as tensors of datapoints, one row each."""

from pyro_aevb.datasets.array_files import check_folder, check_output, read_array, write_array
from pyro_aevb.datasets.download import cache_folder
from pyro_aevb.datasets.image_datasets import DATASETS, ImageData, load_dataset, load_labels
from pyro_aevb.datasets.pixels import PIXELS, Binarized, draw_pixels
from pyro_aevb.datasets.table import Table
from pyro_aevb.datasets.uci_tables import UCI_TABLES, load_uci_table

__all__ = [
    "DATASETS",
    "PIXELS",
    "UCI_TABLES",
    "Binarized",
    "ImageData",
    "Table",
    "cache_folder",
    "check_folder",
    "check_output",
    "draw_pixels",
    "load_dataset",
    "load_labels",
    "load_uci_table",
    "read_array",
    "write_array",
]
