"""The long-running process: records frames, analyses them and raises alerts."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("rlhfd")
