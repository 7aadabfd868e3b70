"""Counters of InfiniBand ports, of which firmware may refuse some and saturate others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhfd_daemon.infiniband import InfiniBand, metrics
from rlhfd_daemon.probe import Prober
from rlhfd_daemon.rates import Rates

# A real file of the kernel that says EINVAL: the loopback has no speed.
REFUSING = Path("/sys/class/net/lo/speed")


class Adapters:
    """Ports made of files, and what is asked of them."""

    def __init__(self, sys: Path) -> None:
        self.sys = sys
        self.asked: list[list[str]] = []
        self.prober = Prober(20)
        self.infiniband = InfiniBand(sys, self.prober)

    def port(
        self, device: str, port: int, received: int, sent: int, *, state: str = "4: ACTIVE", downed: object = 0
    ) -> Path:
        folder = self.sys / "class" / "infiniband" / device / "ports" / str(port)
        (folder / "counters").mkdir(parents=True, exist_ok=True)
        (folder / "state").write_text(f"{state}\n")
        counters = {"port_rcv_data": received, "port_xmit_data": sent, "link_downed": downed, "port_rcv_errors": 2}
        for name, value in counters.items():
            (folder / "counters" / name).write_text(f"{value}\n")
        return folder

    def poll(self, now: float) -> dict[str, float]:
        found = asyncio.run(self.infiniband.poll(now))
        return {name.removeprefix("host/infiniband_"): value for name, value in found.items()}


@pytest.fixture
def adapters(tmp_path: Path) -> Iterator[Adapters]:
    one = Adapters(tmp_path)
    yield one
    one.prober.stop()


def test_ports_are_summed_and_words_are_four_bytes(adapters: Adapters) -> None:
    adapters.port("mlx5_0", 1, 1000, 2000)
    adapters.port("mlx5_1", 1, 0, 0, state="1: DOWN", downed=3)
    first = {"ports_active": 1, "link_downed_total": 3, "receive_errors_total": 4}
    assert adapters.poll(10.0) == first
    adapters.port("mlx5_0", 1, 1500, 2250)
    adapters.port("mlx5_1", 1, 500, 250)
    rates = {"receive_bytes_per_second": 2000.0, "transmit_bytes_per_second": 1000.0}
    assert adapters.poll(12.0) == {**first, **rates, "ports_active": 2, "link_downed_total": 0}


def test_without_adapters_nobody_is_asked(adapters: Adapters) -> None:
    assert adapters.poll(10.0) == {}
    assert adapters.prober._idle is None


@pytest.mark.skipif(not REFUSING.exists(), reason="no sysfs here")
def test_promise_F7_a_counter_that_the_adapter_refuses_is_not_asked_for_again_within_an_hour(
    adapters: Adapters,
) -> None:
    counter = adapters.port("mlx5_0", 1, 1000, 2000) / "counters" / "link_downed"
    counter.unlink()
    counter.symlink_to(REFUSING)
    assert "link_downed_total" not in adapters.poll(0.0)
    counter.unlink()
    counter.write_text("7\n")
    polls = [adapters.poll(float(now)) for now in range(1, 3600, 60)]
    assert not [one for one in polls if "link_downed_total" in one]
    assert all("receive_bytes_per_second" in one for one in polls)
    assert adapters.poll(3600.0)["link_downed_total"] == 7


def test_promise_F6_an_adapter_that_hangs_holds_nobody_up(adapters: Adapters) -> None:
    adapters.prober._patience = 0.1
    counter = adapters.port("mlx5_0", 1, 1000, 2000) / "counters" / "link_downed"
    counter.unlink()
    os.mkfifo(counter)
    assert [adapters.poll(float(now)) for now in range(3)] == [{}, {}, {}]
    assert adapters.prober.stuck == {"infiniband"}


@pytest.mark.parametrize(
    ("content", "known"), [("5", True), ("4294967295", False), ("N/A", False), ("-1", False), ("", False)]
)
def test_promise_F5_a_counter_at_its_end_is_unknown(adapters: Adapters, content: str, known: bool) -> None:
    adapters.port("mlx5_0", 1, 1000, 2000, downed=content)
    assert ("link_downed_total" in adapters.poll(0.0)) == known


def test_nothing_known_is_nothing_said() -> None:
    assert metrics({}, Rates(), 0.0) == {}
