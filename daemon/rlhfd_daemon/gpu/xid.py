"""What XIDs mean, in few words, after NVIDIA's public catalogue: docs.nvidia.com/deploy/xid-errors."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["XIDS", "Meaning", "meaning"]


class Meaning(NamedTuple):
    """``critical``: a hardware fault; by the catalogue the GPU has to be reset, or more."""

    text: str
    critical: bool


# 13, 31, 43 and 45 come from the application: a bug of its, or a killed process. Many of them say nothing of the GPU.
XIDS: dict[int, Meaning] = {
    8: Meaning("the GPU stopped processing", False),
    11: Meaning("invalid or corrupted push buffer stream", False),
    13: Meaning("exception in the graphics engine, mostly an illegal access by the application", False),
    31: Meaning("GPU page fault, mostly an illegal address in the application", False),
    32: Meaning("invalid or corrupted push buffer stream", False),
    38: Meaning("driver firmware error", False),
    43: Meaning("an application met a fault of its own and was stopped", False),
    44: Meaning("graphics engine fault at a context switch", False),
    45: Meaning("an application was cleaned up: killed, or after an earlier error", False),
    46: Meaning("the GPU stopped processing", True),
    48: Meaning("uncorrectable (double-bit) ECC error", True),
    54: Meaning("auxiliary power is not connected to the board", True),
    62: Meaning("internal microcontroller halted", True),
    63: Meaning("a memory row was remapped, or a page retired", False),
    64: Meaning("remapping a memory row, or retiring a page, failed", True),
    69: Meaning("graphics engine class error", False),
    74: Meaning("NVLink error", True),
    79: Meaning("the GPU has fallen off the bus", True),
    92: Meaning("many corrected (single-bit) ECC errors", False),
    94: Meaning("contained memory error: the application that met it has to be restarted", True),
    95: Meaning("uncontained memory error: no application on the GPU can go on", True),
    109: Meaning("context switch timed out", True),
    110: Meaning("security fault", True),
    119: Meaning("the GPU's system processor (GSP) does not answer", True),
    120: Meaning("error in the GPU's system processor (GSP)", True),
    121: Meaning("corrected error of the link to the CPU (C2C)", False),
    136: Meaning("link training failed", True),
    137: Meaning("illegal access to a peer GPU over NVLink, mostly by the application", False),
    140: Meaning("uncorrectable memory error that the driver could not handle", True),
    143: Meaning("the GPU could not be initialised", True),
    **{xid: Meaning("NVLink error, see the kernel log for its kind", True) for xid in range(144, 151)},
    154: Meaning("another error's recovery action: see nvidia-smi -q, GPU Recovery Action", False),
    155: Meaning("an NVLink went down", True),
    156: Meaning("a faulty part of the GPU is to be taken out of use", True),
    157: Meaning("a faulty part of the GPU could not be taken out of use", True),
    158: Meaning("fatal timeout of the GPU", True),
    167: Meaning("fatal timeout of PCIe", True),
    171: Meaning("uncorrectable error in the GPU's DRAM", True),
    172: Meaning("uncorrectable error in the GPU's SRAM", True),
}


def meaning(xid: int) -> Meaning:
    """A number that is not in the table is not critical: most of those are of the application or the driver."""
    return XIDS.get(xid, Meaning("see NVIDIA's XID catalogue", False))
