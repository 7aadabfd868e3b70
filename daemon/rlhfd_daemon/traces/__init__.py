"""Logs of finished and running training, by any logger. To add a format: a file here, a line in detect.FORMATS."""

from rlhfd_daemon.traces.detect import FORMATS, FrameTrace, RowTrace, TraceFormat, find
from rlhfd_daemon.traces.names import Naming
from rlhfd_daemon.traces.row import Damaged, Report, Row

__all__ = ["FORMATS", "Damaged", "FrameTrace", "Naming", "Report", "Row", "RowTrace", "TraceFormat", "find"]
