"""The version of this library, which what it writes names."""

__version__ = "0.1.0"
