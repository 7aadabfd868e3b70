"""A raylet's command line and `debug_state.txt`, as Ray 2.55 has them."""

from __future__ import annotations

import pytest

from rlhfd_daemon.ray_store import Raylet, Store, parse_debug_state, parse_raylet

SESSION = "/tmp/ray/session_2026-11-24_19-09-11_149773_15332"
COMMAND = (
    "/venv/ray/core/src/ray/raylet/raylet", f"--raylet_socket_name={SESSION}/sockets/raylet", "--node_id=efbed61f",
    "--python_worker_command=/venv/bin/python default_worker.py --session-dir=/elsewhere --log-dir=/elsewhere",
    f"--session_dir={SESSION}", f"--log_dir={SESSION}/logs", "--object_store_memory=200000000", "--head",
)  # fmt: skip
STATE = """\
NodeManager:
Node ID: efbed61f
Node name: 192.0.2.2
ClusterResources:
LocalObjectManager:
- num pinned objects: 3
- pinned objects size: 120000762
- num objects pending restore: 0
- num objects pending spill: 0
- num bytes pending spill: 0
- num bytes currently spilled: 200001270
- cumulative spill requests: 5
- cumulative restore requests: 2
- spilled objects pending delete: 0
"""


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (COMMAND, Raylet("efbed61f", f"{SESSION}/logs", 200_000_000)),
        (("raylet", f"--session_dir={SESSION}"), Raylet("", f"{SESSION}/logs", None)),
        (("raylet", f"--session-dir={SESSION}", "--object_store_memory=-1"), Raylet("", f"{SESSION}/logs", None)),
        (("raylet", "--session_dir=relative"), None),
        (("raylet", "--object_store_memory=1"), None),
        (("",), None),
    ],
)
def test_a_raylet_says_where_it_writes_and_how_large_its_store_is(
    command: tuple[str, ...], found: Raylet | None
) -> None:
    assert parse_raylet("\0".join(command)) == found


def test_the_store_is_read_from_the_debug_state() -> None:
    assert parse_debug_state(STATE, "efbed61f") == Store(120_000_762, 200_001_270, 5, 2)


def test_another_raylets_debug_state_says_nothing() -> None:
    assert parse_debug_state(STATE, "0815") is None
    assert parse_debug_state("", "efbed61f") is None


def test_what_is_missing_or_cut_off_is_unknown() -> None:
    cut = STATE[: STATE.index("01270")]
    assert parse_debug_state(cut, "efbed61f") == Store(120_000_762, None, None, None)
    assert parse_debug_state(STATE.replace("120000762", "9" * 30), "efbed61f") == Store(None, 200_001_270, 5, 2)
