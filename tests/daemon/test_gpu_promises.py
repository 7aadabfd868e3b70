"""Promises F1 to F4 and F7: whatever NVML does, the daemon goes on, says what is wrong, and stands in nobody's way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from frozen_mount import frozen_mount
from nvml import FAST, Driven, FakeNvml, driven
from rlhfd_daemon.gpu.keeper import MAX_ABANDONED
from rlhfd_daemon.gpu.process import Child, Deadlines
from rlhfd_daemon.gpu.reading import Hello
from rlhfd_daemon.gpu_cli import PATIENCE_SECONDS
from rlhfd_daemon.procfs import stat
from support import wait_for


class Unkillable(Child):
    """As one in state D, where a file system may not be mounted: it does not exit in order, nor by SIGKILL."""

    def __init__(self, hello: Hello, deadlines: Deadlines) -> None:
        super().__init__(hello, deadlines)
        self._process.kill = lambda: None  # type: ignore[method-assign]


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(tmp_path)
    for name, value in fake.environ.items():
        monkeypatch.setenv(name, value)
    return fake


def longest_tick(poller: Driven, until: Callable[[], object]) -> float:
    """How long the daemon's loop was held up at most; only tells a call that waits for NVML (seconds) from none."""
    longest = 0.0

    def timed() -> object:
        nonlocal longest
        began = time.monotonic()
        poller.tick()
        longest = max(longest, time.monotonic() - began)
        return until()

    wait_for(timed, 40)
    return longest


@pytest.mark.parametrize("order", ["sleep nvmlDeviceGetPowerUsage 60 gpu 1", "spin nvmlDeviceGetPowerUsage gpu 1"])
def test_promise_F1_a_call_that_hangs_is_named_and_killed_and_the_other_gpus_are_read(
    order: str, nvml: FakeNvml, tmp_path: Path
) -> None:
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        hung = poller.pid()
        nvml.say("gpus 2", order)
        assert longest_tick(poller, lambda: poller.events("gpu_telemetry_stuck")) < 5
        (stuck,) = poller.events("gpu_telemetry_stuck")
        assert (stuck["call"], stuck["gpu"], stuck["pid"]) == ("nvmlDeviceGetPowerUsage", 1, hung)
        assert (stuck["abandoned"], stuck["process_state"]) == (False, "S")
        assert poller.poller.state == "stuck"
        assert "GPU 1" in poller.poller.detail
        found = poller.until_reading()
        assert "gpu/0/power_watts" in found
        assert not any(name.startswith("gpu/1/") for name in found)
        assert poller.poller.state == "stuck"


def test_promise_F1_what_hung_is_tried_again_later_and_the_end_is_told(nvml: FakeNvml, tmp_path: Path) -> None:
    later = 0.0
    with driven(tmp_path, clock=lambda: time.monotonic() + later) as poller:
        nvml.say("gpus 2", "sleep nvmlDeviceGetName 60 gpu 0")
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        poller.until_reading()
        nvml.say("gpus 2")
        later = 700.0
        poller.until_state("ok")
        assert len(poller.events("gpu_telemetry_resumed")) == 1
        assert "gpu/0/power_watts" in poller.until_reading()


def test_promise_F1_a_stopped_child_is_replaced(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        os.kill(stopped := poller.pid(), signal.SIGSTOP)
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        (stuck,) = poller.events("gpu_telemetry_stuck")
        assert (stuck["pid"], stuck["process_state"]) == (stopped, "T")
        poller.until_reading()
        assert poller.pid() != stopped


def test_promise_F1_an_init_that_hangs_is_killed(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say("gpus 1", "sleep nvmlInit 60")
    config = msgspec.structs.replace(FAST, start_deadline_seconds=1.0)
    with driven(tmp_path, config) as poller:
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        assert poller.events("gpu_telemetry_stuck")[0]["call"] == "nvmlInit"
        nvml.say("gpus 1")
        poller.until_state("ok")
        assert len(poller.events("gpu_telemetry_resumed")) == 1


def test_promise_F1_the_wait_for_xids_may_hang_too(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say("gpus 1", "sleep nvmlEventSetWait_v2 60")
    with driven(tmp_path) as poller:
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        assert poller.events("gpu_telemetry_stuck")[0]["call"] == "nvmlEventSetWait_v2"
        waits = nvml.calls("nvmlEventSetWait_v2")
        poller.until_reading()
        assert nvml.calls("nvmlEventSetWait_v2") == waits


def test_promise_F1_a_child_in_state_D_is_abandoned_and_never_more_than_two(nvml: FakeNvml, tmp_path: Path) -> None:
    """A real D state: the call opens a file on a file system that does not answer, which SIGKILL does not end."""
    later = 0.0
    with (
        driven(tmp_path, clock=lambda: time.monotonic() + later) as poller,
        frozen_mount(tmp_path / "frozen") as frozen,
    ):
        nvml.say("gpus 2", f"open nvmlDeviceGetPowerUsage {frozen}/file gpu 1")
        longest = longest_tick(poller, lambda: poller.events("gpu_telemetry_stuck"))
        assert longest < 5
        (stuck,) = poller.events("gpu_telemetry_stuck")
        assert (stuck["abandoned"], stuck["gpu"]) == (True, 1)
        assert isinstance(stuck["pid"], int)
        hanging = stat(stuck["pid"])
        assert hanging is not None
        assert hanging.state in "DZ"  # a process of which one thread is left in D shows as Z
        assert "gpu/0/power_watts" in poller.until_reading()
        later = 700.0  # GPU 1 is tried again
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        poller.until(lambda: len(poller.poller._keeper._abandoned) == MAX_ABANDONED)
        later = 1400.0
        for _ in range(20):
            poller.tick()
        assert len(poller.poller._keeper.holders) == MAX_ABANDONED
        assert poller.poller.state == "stuck"


def test_promise_F1_a_child_that_no_signal_ends_is_abandoned(nvml: FakeNvml, tmp_path: Path) -> None:

    nvml.say("gpus 1", "spin nvmlDeviceGetPowerUsage")
    with driven(tmp_path, child=Unkillable) as poller:
        poller.until(lambda: poller.events("gpu_telemetry_stuck"))
        (stuck,) = poller.events("gpu_telemetry_stuck")
        assert stuck["abandoned"] is True
        assert stuck["pid"] in poller.poller._keeper.holders


@pytest.mark.parametrize(
    ("orders", "state"),
    [
        (["return nvmlInit 12"], "no_library"),
        (["return nvmlInit 9"], "driver_not_loaded"),
        (["return nvmlInit 18"], "version_mismatch"),
        (["return nvmlInit 4"], "no_permission"),
        (["return nvmlInit 15"], "gpu_lost"),
        (["return nvmlInit 16"], "reset_required"),
        (["return nvmlInit 999"], "unknown_error:Unknown"),
        (["return nvmlInit 77"], "unknown_error:Code77"),
        (["gpus 0"], "no_devices"),
        (["return nvmlDeviceGetHandleByIndex_v2 4"], "no_permission"),
        (["return nvmlDeviceGetUtilizationRates 15"], "gpu_lost"),
        (["return nvmlDeviceGetUtilizationRates 16 gpu 1"], "reset_required"),
        (["return nvmlDeviceGetUtilizationRates 9"], "driver_not_loaded"),
        (["return nvmlDeviceGetCount_v2 1"], "unknown_error:Uninitialized"),
        (["crash nvmlDeviceGetPowerUsage"], "unknown_error:child_died"),
    ],
)
def test_promise_F2_each_failure_is_one_clear_state_and_ends_by_itself(
    orders: list[str], state: str, nvml: FakeNvml, tmp_path: Path
) -> None:
    nvml.say("gpus 2", *orders)
    with driven(tmp_path) as poller:
        poller.until(lambda: poller.poller.state)
        assert poller.poller.state == state
        nvml.say("gpus 2")
        poller.until_state("ok")
        assert poller.states() == [state, "ok"]
        (_, last) = poller.events("gpu_telemetry_state")
        assert last["before"] == state


def test_promise_F2_a_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("NVIDIA's library is installed here")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    with driven(tmp_path) as poller:
        poller.until(lambda: poller.poller.state)
        assert poller.poller.state == "no_library"


def test_promise_F2_looking_again_backs_off(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say("gpus 1", "return nvmlInit 9")
    with driven(tmp_path) as poller:
        poller.eager = False
        poller.until(lambda: poller.poller._failures == 3)
        began = time.monotonic()
        poller.until(lambda: poller.poller._failures == 4)
        assert time.monotonic() - began > 2.0
        assert nvml.calls("nvmlInit") == 4
        assert poller.states() == ["driver_not_loaded"]


def test_promise_F2_one_lost_gpu_does_not_stop_the_others(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        nvml.say(
            "gpus 3", *[f"return {call} 15 gpu 1" for call in ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetUUID")]
        )
        poller.until(lambda: poller.events("gpu_lost"))
        assert poller.events("gpu_lost") == [
            {"gpu": 1, "uuid": "GPU-00000001", "name": "NVIDIA Fake H100", "reason": "gpu_lost"}
        ]
        assert poller.poller.state == "gpu_lost"
        for _ in range(2):
            found = poller.until_reading()
            assert {name.split("/")[1] for name in found} == {"0", "2"}
        assert poller.events("gpu_lost") == []
        nvml.say("gpus 3")
        poller.until_state("ok")
        assert [fields["uuid"] for fields in poller.events("gpu_back")] == ["GPU-00000001"]


def test_promise_F2_gpus_may_come_and_go(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say("gpus 2")
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        nvml.say("gpus 1", "set 0 uuid 1")  # GPU 0 is gone, and 1 has become 0
        poller.until(lambda: poller.events("gpu_lost"))
        assert poller.events("gpu_lost")[0] == {
            "gpu": 0, "uuid": "GPU-00000000", "name": "NVIDIA Fake H100", "reason": "gone",
        }  # fmt: skip
        nvml.say("gpus 2")
        poller.until(lambda: poller.events("gpu_back"))
        assert poller.events("gpu_back")[0]["uuid"] == "GPU-00000000"
        assert poller.poller.state == "ok"


def test_promise_F2_a_gpu_that_the_driver_adds_is_found(nvml: FakeNvml, tmp_path: Path) -> None:
    """NVML knows the GPUs of its init only; the driver's folder in /proc tells of new ones."""
    gpus = tmp_path / "proc/driver/nvidia/gpus"
    (gpus / "0000:1a:00.0").mkdir(parents=True)
    with driven(tmp_path, proc=tmp_path / "proc") as poller:
        poller.until_state("ok")
        first = poller.pid()
        (gpus / "0000:1b:00.0").mkdir()
        poller.until(lambda: poller.poller._keeper.child is not None and poller.pid() != first)


def test_promise_F3_release_answers_when_no_handle_is_open_and_resume_reads_again(
    nvml: FakeNvml, tmp_path: Path
) -> None:
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        assert nvml.open_handles == 1
        child = poller.pid()
        answer = asyncio.run(poller.poller.release(None))
        assert (answer["state"], answer["released"], answer["holders"]) == ("released", True, [])
        assert nvml.open_handles == 0
        assert stat(child) is None
        assert poller.poller.telemetry.latest == {}  # unknown now, not as before
        for _ in range(10):
            poller.tick()
        assert nvml.calls("nvmlInit") == 1
        asyncio.run(poller.poller.resume())
        poller.until_state("ok")
        assert poller.states() == ["ok", "released", "ok"]


def test_promise_F3_a_release_ends_in_time_and_outlives_the_daemon(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path) as poller:
        poller.until_state("ok")
        asyncio.run(poller.poller.release(3600.0))
    with driven(tmp_path) as poller:  # a new daemon on the same state directory; the old one said nothing
        poller.until_state("released")
        for _ in range(10):
            poller.tick()
        assert nvml.calls("nvmlInit") == 1
        poller.seen += asyncio.run(poller.poller.poll(time.time() + 3601))
        poller.until_state("ok")
        assert not (tmp_path / "gpu-released-until").exists()


@pytest.mark.parametrize("kind", [Child, Unkillable])
def test_promise_F3_release_kills_what_does_not_let_go_and_says_who_cannot_be_killed(
    kind: type[Child], nvml: FakeNvml, tmp_path: Path
) -> None:
    with driven(tmp_path, child=kind) as poller:
        poller.until_state("ok")
        os.kill(child := poller.pid(), signal.SIGSTOP)
        began = time.monotonic()
        answer = asyncio.run(poller.poller.release(None))
        assert time.monotonic() - began < PATIENCE_SECONDS  # the command line waits no longer
        assert answer["holders"] == ([] if kind is Child else [child])
        assert (stat(child) is None) is (kind is Child)
        assert poller.poller.state == "released"


def test_promise_F3_a_reset_or_a_mig_change_that_waits_for_us_is_let_through(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path) as poller:
        poller.eager = False
        nvml.say("gpus 1", "set 0 mig_mode 0", "set 0 mig_pending 1")
        poller.until_state("released")
        poller.until(lambda: nvml.open_handles == 0)
        assert "MIG" in poller.poller.detail
    with driven(tmp_path) as poller:
        poller.eager = False
        nvml.say("gpus 1", "return nvmlDeviceGetPowerUsage 16")
        poller.until_state("reset_required")
        poller.until(lambda: nvml.open_handles == 0)


def test_promise_F4_slow_calls_make_readings_rare(nvml: FakeNvml, tmp_path: Path) -> None:
    with driven(tmp_path, msgspec.structs.replace(FAST, call_deadline_seconds=5.0)) as poller:
        poller.eager = False
        nvml.say("gpus 1", "sleep nvmlDeviceGetPowerUsage 0.2", "sleep nvmlDeviceGetClockInfo 0.2")
        poller.until_reading()
        poller.until(lambda: poller.poller.pause_seconds > 0.6 / 0.05)
        read = nvml.calls("nvmlDeviceGetPowerUsage")
        for _ in range(20):
            poller.tick()
        assert nvml.calls("nvmlDeviceGetPowerUsage") == read


def test_promise_F4_readings_are_not_in_step(nvml: FakeNvml, tmp_path: Path) -> None:
    config = msgspec.structs.replace(FAST, interval_seconds=1.0)
    with driven(tmp_path / "a", config) as one, driven(tmp_path / "b", config) as two:
        for poller in (one, two):
            poller.until_reading()
        assert one.poller.pause_seconds != two.poller.pause_seconds
        assert all(poller.poller.pause_seconds >= 1.0 for poller in (one, two))


@pytest.mark.parametrize("code", [2, 3, 13])
def test_promise_F7_what_was_refused_is_not_asked_again_not_even_by_the_next_child(
    code: int, nvml: FakeNvml, tmp_path: Path
) -> None:
    later = 0.0
    nvml.say("gpus 2", f"return nvmlDeviceGetPowerUsage {code} gpu 1", f"return nvmlDeviceGetTemperature {code}")
    with driven(tmp_path, clock=lambda: time.monotonic() + later) as poller:
        poller.until_state("ok")
        poller.until_reading()
        os.kill(poller.pid(), signal.SIGKILL)
        poller.until_state("unknown_error:child_died")
        poller.until_state("ok")
        found = poller.until_reading()
        assert "gpu/0/power_watts" in found
        assert "gpu/1/power_watts" not in found
        calls = nvml.calls_by_pid()
        assert len(calls) == 2
        reads = sum(counts["nvmlDeviceGetUtilizationRates"] for counts in calls.values())
        assert nvml.calls("nvmlDeviceGetTemperature") == 2  # once for each GPU
        assert nvml.calls("nvmlDeviceGetPowerUsage") == reads // 2 + 1
        later = 3700.0  # an hour later it may be asked once more, here by a third child
        os.kill(poller.pid(), signal.SIGKILL)
        poller.until_state("unknown_error:child_died")
        poller.until_state("ok")
        assert nvml.calls("nvmlDeviceGetTemperature") == 4


def test_promise_F7_a_new_driver_is_asked_everything_anew(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.say("gpus 1", "return nvmlDeviceGetPowerUsage 3")
    with driven(tmp_path) as poller:
        poller.until_reading()
        nvml.say("gpus 1", "set * driver 570")
        os.kill(poller.pid(), signal.SIGKILL)
        poller.until(lambda: poller.poller.telemetry.driver.startswith("570"))
        poller.until_reading()
        os.kill(poller.pid(), signal.SIGKILL)  # what the first child was refused went with it to the second only
        poller.until_state("unknown_error:child_died")
        poller.until_state("ok")
        assert "gpu/0/power_watts" in poller.metrics()


def test_promise_F7_a_suspended_gpu_is_left_asleep(nvml: FakeNvml, tmp_path: Path) -> None:
    """No call at all for it: getting its handle would already wake it."""
    pci, proc = tmp_path / "pci", tmp_path / "proc"
    for name, status in (("0000:1a:00.0", "active"), ("0000:1b:00.0", "suspended")):
        (pci / name / "power").mkdir(parents=True)
        (pci / name / "power" / "runtime_status").write_text(status + "\n")
        (proc / "driver/nvidia/gpus" / name).mkdir(parents=True)
    with driven(tmp_path, proc=proc, pci_devices=pci) as poller:
        for _ in range(2):
            assert {name.split("/")[1] for name in poller.until_reading()} == {"0"}
        assert poller.poller.state == "ok"
        assert nvml.calls("nvmlDeviceGetHandleByIndex_v2") == 1
        (pci / "0000:1b:00.0" / "power" / "runtime_status").write_text("active\n")
        poller.until(lambda: "gpu/1/power_watts" in poller.metrics())
        (pci / "0000:1a:00.0" / "power" / "runtime_status").write_text("suspending\n")
        poller.until_reading()
        assert {name.split("/")[1] for name in poller.until_reading()} == {"1"}
