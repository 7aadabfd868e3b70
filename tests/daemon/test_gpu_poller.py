"""The GPU poller and its NVML process against a fake NVML: what is read, whose memory it is, what happened."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from nvml import FAST, Driven, FakeNvml, driven
from rlhfd_daemon.gpu.node import LIBRARY, bus_ids, driver_is_there, library_is_known, opens_gpu
from rlhfd_daemon.gpu.process import Child
from rlhfd_daemon.gpu.reading import Hello, Read
from rlhfd_daemon.metrics import lookup
from rlhfd_daemon.observation import Subject
from rlhfd_daemon.runs import Peer, Runs
from support import wait_for
from wire import frame

GIB = 1 << 30


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(tmp_path)
    for name, value in fake.environ.items():
        monkeypatch.setenv(name, value)
    return fake


@pytest.fixture
def poller(nvml: FakeNvml, tmp_path: Path) -> Iterator[Driven]:
    with driven(tmp_path) as one:
        yield one


def joined(runs: Runs, role: str, rank: int | None, pid: int, *, run: str = "ppo") -> None:
    """A process of a run says something."""
    one = frame(1, run=run, boot="b", role=role, rank=rank, stream=f"{role}{rank}", metrics={})
    assert runs.admit(one, Peer(0, pid), 1.0)


def test_every_quantity_of_every_gpu_is_read(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say(
        "gpus 2", "set 0 utilization 91", "set 1 power 123456", "set 1 temperature 77", "set 0 sm_clock 1410",
        "set 0 memory_used 1073741824", "set 0 ecc_volatile_uncorrected 3", "set 0 remapped_failure 1",
        "set 1 clock_reasons 0x48", "field 0 82 71", "field 0 29 2",
    )  # fmt: skip
    found = poller.until_reading()
    expected = {
        "gpu/0/utilization_ratio": 0.91, "gpu/1/power_watts": 123.456, "gpu/1/temperature_celsius": 77,
        "gpu/0/sm_clock_hertz": 1.41e9, "gpu/0/memory_used_bytes": GIB, "gpu/0/memory_total_bytes": 80 * GIB,
        "gpu/0/ecc_volatile_uncorrected_total": 3, "gpu/0/ecc_aggregate_corrected_total": 0,
        "gpu/0/remapped_rows_failure": 1, "gpu/1/throttle/hw_slowdown": 1, "gpu/1/throttle/hw_thermal": 1,
        "gpu/1/throttle/sw_power_cap": 0, "gpu/0/memory_temperature_celsius": 71, "gpu/1/power_limit_watts": 700,
        "gpu/0/retired_pages_corrected_total": 2, "gpu/0/pcie_tx_bytes_per_second": 1e6, "gpu/1/mig_enabled": 0,
    }  # fmt: skip
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert "gpu/1/memory_temperature_celsius" not in found  # that GPU has no such sensor
    assert [name for name in found if lookup(name) is None] == []


def test_one_observation_per_gpu_stays_below_the_frame_s_limit(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say("gpus 64", "field * 138 1", "field * 139 1", "field * 82 50")
    poller.until(lambda: len([one for one in poller.seen if one.metrics]) >= 64)
    assert max(len(one.metrics) for one in poller.seen) < 100
    assert poller.poller.state == "ok"


def test_the_inventory_is_told_once_and_again_when_it_changes(nvml: FakeNvml, poller: Driven) -> None:
    poller.until_state("ok")
    poller.until_reading()
    poller.until_reading()
    assert poller.events("gpu_inventory") == []
    nvml.say("gpus 3", "set * driver 570")
    poller.until(lambda: poller.events("gpu_inventory"))
    (told,) = poller.events("gpu_inventory")
    assert told["driver"] == "570.54.15"
    gpus = told["gpus"]
    assert isinstance(gpus, list)
    assert gpus[2] == {"index": 2, "uuid": "GPU-00000002", "name": "NVIDIA Fake H100", "bus_id": "00000000:1C:00.0"}


def test_nvlink_throughput_is_that_of_all_links(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say("gpus 1", "field 0 138 0", "field 0 139 0")
    poller.until_reading()
    nvml.say("gpus 1", "field 0 138 1048576", "field 0 139 524288")
    poller.until(lambda: poller.metrics().get("gpu/0/nvlink_tx_bytes_per_second", 0) > 0)
    found = next(one.metrics for one in poller.seen if one.metrics.get("gpu/0/nvlink_tx_bytes_per_second"))
    assert found["gpu/0/nvlink_tx_bytes_per_second"] == pytest.approx(2 * found["gpu/0/nvlink_rx_bytes_per_second"])


def test_nvlink_is_summed_per_link_where_the_sum_is_not_told(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say("gpus 1", "field 0 202 0", "field 0 204 0")  # of the fake, as of Blackwell, only links 0 to 3 answer
    poller.until_reading()
    nvml.say("gpus 1", "field 0 202 3000000", "field 0 204 1000000")
    poller.until(lambda: poller.metrics().get("gpu/0/nvlink_tx_bytes_per_second", 0) > 0)
    found = next(one.metrics for one in poller.seen if one.metrics.get("gpu/0/nvlink_tx_bytes_per_second"))
    assert found["gpu/0/nvlink_tx_bytes_per_second"] == pytest.approx(3 * found["gpu/0/nvlink_rx_bytes_per_second"])


def test_memory_is_told_per_role_and_a_child_counts_as_its_parent(nvml: FakeNvml, tmp_path: Path) -> None:
    engine = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    runs = Runs()
    joined(runs, "PolicyModelActor", 0, 999_990)
    joined(runs, "PolicyModelActor", 1, 999_991)
    joined(runs, "RolloutRayActor", None, os.getpid())
    joined(runs, "Other", None, 999_992, run="sft")
    try:
        nvml.say(
            "gpus 2", "process 0 999990 1000", "process 1 999990 500", "process 1 999991 70",
            f"process 0 {engine.pid} 42", "process 1 999992 9", "process 1 888888 12345",
        )  # fmt: skip
        with driven(tmp_path, runs=runs, proc=Path("/proc")) as poller:
            node = poller.until_reading()
            if not poller.poller.telemetry._owners._are_pids_certain:
                pytest.skip("in a pid namespace of its own, where a pid without an open GPU proves nothing")
            assert poller.metrics(Subject("ppo", "b")) == {
                "process/PolicyModelActor-0/gpu_memory_bytes": 1500,
                "process/PolicyModelActor-1/gpu_memory_bytes": 70,
                "process/RolloutRayActor/gpu_memory_bytes": 42,
            }
            assert poller.metrics(Subject("sft", "b")) == {"process/Other/gpu_memory_bytes": 9}
            assert (node["gpu/0/other_processes_bytes"], node["gpu/1/other_processes_bytes"]) == (0, 12345)
    finally:
        engine.communicate()


def test_in_a_container_a_pid_counts_only_if_that_process_has_a_gpu_open(nvml: FakeNvml, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    for pid, target in ((41, "/dev/nvidia0"), (42, "/dev/null")):
        (proc / str(pid) / "fd").mkdir(parents=True)
        (proc / str(pid) / "fd" / "3").symlink_to(target)
    assert (opens_gpu(41, proc), opens_gpu(42, proc), opens_gpu(43, proc)) == (True, False, False)
    runs = Runs()
    joined(runs, "PolicyModelActor", 0, 41)
    joined(runs, "PolicyModelActor", 1, 42)
    nvml.say("gpus 1", "process 0 41 100", "process 0 42 10")
    with driven(tmp_path, runs=runs, proc=proc) as poller:
        assert poller.until_reading()["gpu/0/other_processes_bytes"] == 10
        assert poller.metrics(Subject("ppo", "b")) == {"process/PolicyModelActor-0/gpu_memory_bytes": 100}


def test_mig_instances_are_read_one_by_one(nvml: FakeNvml, tmp_path: Path) -> None:
    runs = Runs()
    joined(runs, "CriticModelActor", 0, os.getpid())
    nvml.say(
        "gpus 1", "set 0 mig_mode 1", f"mig 0 1 1000 {os.getpid()}", "mig 0 3 2000 888888",
        "return nvmlDeviceGetUtilizationRates 3",
    )  # fmt: skip
    with driven(tmp_path, runs=runs) as poller:
        found = poller.until_reading()
        assert found["gpu/0/mig_enabled"] == 1
        assert found["gpu/0/mig/1/memory_used_bytes"] == 1000
        assert found["gpu/0/mig/3/memory_total_bytes"] == 10 * GIB
        assert "gpu/0/utilization_ratio" not in found
        assert "gpu/0/mig/2/memory_used_bytes" not in found
        if poller.poller.telemetry._owners._are_pids_certain:
            assert found["gpu/0/other_processes_bytes"] == 2000
            assert poller.metrics(Subject("ppo", "b")) == {"process/CriticModelActor-0/gpu_memory_bytes": 1000}


def test_an_xid_is_told_with_its_meaning(nvml: FakeNvml, poller: Driven) -> None:
    poller.until_state("ok")
    poller.until(lambda: nvml.calls("nvmlEventSetWait_v2"))
    nvml.say("gpus 2", "xid 1 79", "xid 0 31", "xid 0 4711")
    poller.until(lambda: len(poller.events("gpu_xid")) == 3)
    first, second, third = poller.events("gpu_xid")
    assert first == {
        "gpu": 1, "uuid": "GPU-00000001", "name": "NVIDIA Fake H100", "xid": 79,
        "meaning": "the GPU has fallen off the bus", "critical": True,
    }  # fmt: skip
    assert (second["xid"], second["critical"]) == (31, False)
    assert (third["xid"], third["critical"]) == (4711, False)


def test_without_xid_support_everything_else_is_read(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say("gpus 1", "set * event_types 0")
    poller.until_reading()
    poller.until_reading()
    assert poller.poller.state == "ok"
    assert nvml.calls("nvmlEventSetWait_v2") == 0


@pytest.mark.parametrize(
    ("orders", "metric"),
    [
        (["return nvmlDeviceGetMemoryInfo_v2 13"], "gpu/0/memory_used_bytes"),
        (["return nvmlDeviceGetCurrentClocksEventReasons 13"], "gpu/0/throttle/hw_slowdown"),
        (["return nvmlDeviceGetTemperature 13"], "gpu/0/temperature_celsius"),
        (["return nvmlDeviceGetComputeRunningProcesses_v3 13"], "gpu/0/other_processes_bytes"),
    ],
)
def test_older_and_newer_drivers_are_asked_another_way(
    orders: list[str], metric: str, nvml: FakeNvml, poller: Driven
) -> None:
    nvml.say("gpus 1", *orders)
    assert metric in poller.until_reading()


def test_what_nvml_prints_does_not_disturb(nvml: FakeNvml, poller: Driven) -> None:
    nvml.say("gpus 1", "print nvmlInit", "print nvmlDeviceGetName")
    assert poller.until_reading()["gpu/0/power_watts"] == 300
    assert poller.poller.state == "ok"


def test_the_child_ends_by_itself_when_the_daemon_is_gone(nvml: FakeNvml, tmp_path: Path) -> None:
    program = (
        "import asyncio, time\nfrom nvml import *\n"
        f"with driven(Path({str(tmp_path)!r})) as one:\n"
        " one.until_state('ok'); print(one.pid(), flush=True); time.sleep(60)"
    )
    path = os.pathsep.join(sys.path)
    daemon = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert daemon.stdout is not None
    with daemon.stdout:
        lines = iter(daemon.stdout.readline, b"")
        pid = int(next(line for line in lines if line.strip().isdigit()))
        assert Path(f"/proc/{pid}").exists()
        daemon.kill()
        daemon.wait()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert nvml.open_handles == 0


def test_the_daemon_itself_never_loads_nvml(nvml: FakeNvml, poller: Driven) -> None:
    poller.until_reading()
    assert "pynvml" not in sys.modules
    assert LIBRARY not in Path("/proc/self/maps").read_text()


def test_stopping_twice_leaves_no_process(nvml: FakeNvml, poller: Driven) -> None:
    poller.until_state("ok")
    asyncio.run(poller.poller.stop())
    asyncio.run(poller.poller.stop())
    assert poller.poller.describe()["holders"] == []
    assert nvml.open_handles == 0


def test_without_a_driver_no_process_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")

    def child(*_: object) -> None:
        raise AssertionError("started")

    config = msgspec.structs.replace(FAST, probe="auto")
    with driven(tmp_path, config, proc=tmp_path, dev=tmp_path, child=child) as one:
        one.until(lambda: one.poller._failures == 2)
        state = "driver_not_loaded" if library_is_known() else "no_library"
        assert one.states() == [state]  # the second look changed nothing and told nothing


def test_driver_and_library_are_known_by_their_files(tmp_path: Path) -> None:
    proc, dev, cache = tmp_path / "proc", tmp_path / "dev", tmp_path / "ld.so.cache"
    assert not driver_is_there(proc, dev)
    assert not library_is_known({"LD_LIBRARY_PATH": f":{tmp_path}"}, cache)
    cache.write_bytes(b"\0libnvidia-ml.so.1\0")
    assert library_is_known({}, cache)
    cache.unlink()
    (tmp_path / LIBRARY).touch()
    assert library_is_known({"LD_LIBRARY_PATH": f"/nowhere:{tmp_path}"}, cache)
    for bus_id in ("0000:65:00.0", "0000:1a:00.0"):
        (proc / "driver/nvidia/gpus" / bus_id).mkdir(parents=True)
    assert bus_ids(proc) == ["0000:1a:00.0", "0000:65:00.0"]
    dev.mkdir()
    (dev / "nvidiactl").touch()
    assert driver_is_there(proc, dev)


class OtherVersion(Child):
    """As a daemon that was started before rlhfd was upgraded: it does not say all that the new child asks for."""

    def _send(self, command: Hello | Read) -> None:
        said = msgspec.to_builtins(command)
        said.pop("pci_devices", None)
        self._unsent += msgspec.json.encode(said) + b"\n"
        self._flush()


def test_an_upgrade_under_the_running_daemon_is_told(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path, child=OtherVersion) as poller:
        poller.until(lambda: poller.poller.state)
        assert poller.poller.state == "unknown_error:Upgraded"
        assert "restart" in poller.poller.detail


def test_a_greeting_longer_than_the_pipe_arrives(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path) as poller:
        poller.poller._refused = {(1000 + gpu, "field/140/17"): 1e12 for gpu in range(20_000)}
        poller.until_state("ok")
        assert "gpu/0/power_watts" in poller.until_reading()
