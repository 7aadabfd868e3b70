"""What is wrong with a file of a checkpoint, and how a reader says so: every refusal is a ``Defect``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlhfd_alerts.finding import Severity
from rlhfd_daemon.errors import DaemonError

__all__ = ["KINDS", "Defect", "DefectKind", "Refused", "Vanished"]


@dataclass(frozen=True, slots=True)
class DefectKind:
    """``issue`` is the kind of ``health.KINDS`` that a defect counts as; ``None``: it takes nothing from the health."""

    severity: Severity
    issue: str | None
    meaning: str


KINDS: dict[str, DefectKind] = {
    "unsafe": DefectKind(Severity.CRITICAL, "refused", "would run code, or unpack to far more than it is, if loaded"),
    "special": DefectKind(Severity.CRITICAL, "refused", "a link, pipe, socket, device or folder where a file belongs"),
    "malformed": DefectKind(Severity.CRITICAL, "unreadable", "not what its format demands"),
    "truncated": DefectKind(Severity.CRITICAL, "unreadable", "ends before what it says it holds"),
    "missing": DefectKind(Severity.CRITICAL, "unreadable", "a file or tensor that another file names is not there"),
    "inconsistent": DefectKind(Severity.CRITICAL, "unreadable", "two places that should agree do not"),
    "io": DefectKind(Severity.WARNING, "unreadable", "the system does not let it be read"),
    "limit": DefectKind(Severity.WARNING, "unread", "larger, deeper or emptier than what is read here"),
    "unsupported": DefectKind(Severity.WARNING, "unread", "recognised, and not read here"),
    "foreign": DefectKind(Severity.WARNING, None, "a pickle names classes that are not known; nothing of them is used"),
    "shared": DefectKind(Severity.INFO, None, "tensors that have bytes in common, as tied weights do"),
}
"""By name."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing wrong: ``file`` is relative to the folder that was opened, ``tensor`` empty if it is not about one."""

    kind: str
    file: str
    summary: str
    tensor: str = ""
    evidence: Mapping[str, object] = field(default_factory=dict)

    @property
    def severity(self) -> Severity:
        """As its kind."""
        return KINDS[self.kind].severity


class Refused(DaemonError):  # noqa: N818 - says what is, like BlockingIOError
    """A file is not read, or not further; ``defect`` says why."""

    def __init__(self, kind: str, file: str, summary: str, tensor: str = "", /, **evidence: object) -> None:
        self.defect = Defect(kind, file, summary, tensor, evidence)
        super().__init__(f"{file}: {summary}")


class Vanished(DaemonError):  # noqa: N818 - says what is, like BlockingIOError
    """A file went away or changed while it was looked at, as files of a rotated checkpoint do; no defect."""

    def __init__(self, file: str, what: str = "is gone") -> None:
        self.file = file
        super().__init__(f"{file}: {what}")
