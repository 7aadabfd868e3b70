"""The long-running process: records frames, analyses them and raises alerts."""

from importlib.metadata import version

from rlhfd_daemon.compiled import install

__all__ = ["__version__"]

__version__ = version("rlhfd")

install()
