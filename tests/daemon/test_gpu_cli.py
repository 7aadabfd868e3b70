"""`rlhfd gpu`: through the control socket to the poller and back, in words and in exit codes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nvml import FakeNvml, driven
from rlhfd_daemon.cli import app
from rlhfd_daemon.control import ControlServer, GpuControl, ask
from rlhfd_daemon.errors import ControlError

GPU = {"index": 0, "uuid": "GPU-0", "name": "H100", "bus_id": "1A", "error": "", "metrics": {
    "utilization_ratio": 0.5, "memory_used_bytes": 1 << 30, "memory_total_bytes": 80 << 30, "throttle/hw_thermal": 1.0,
}}  # fmt: skip


class Stub:
    """A poller that notes what it is told."""

    def __init__(self, **answer: object) -> None:
        self.answer = {"state": "ok", "detail": "", "holders": [], "gpus": [], **answer}
        self.told: list[object] = []
        self.error: OSError | None = None

    def describe(self) -> dict[str, object]:
        return self.answer

    async def release(self, seconds: float | None) -> dict[str, object]:
        self.told.append(("release", seconds))
        if self.error is not None:
            raise self.error
        return self.answer

    async def resume(self) -> dict[str, object]:
        self.told.append("resume")
        return self.answer


def served(directory: Path, gpu: GpuControl | None, talk: Callable[[Path], Any]) -> Any:
    """What ``talk`` returns, called in a thread while a daemon's door is open."""
    path = directory / "control.sock"
    (directory / "rlhfd.toml").write_text(f'[control]\nsocket = "{path}"\n')

    async def main() -> object:
        server = ControlServer(path, status=dict, mute=lambda run, muted: 0, gpu=gpu)
        await server.start()
        try:
            return await asyncio.get_running_loop().run_in_executor(None, talk, path)
        finally:
            await server.stop()

    return asyncio.run(asyncio.wait_for(main(), 30))


def rlhfd(directory: Path, gpu: GpuControl | None, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `rlhfd gpu ...`."""

    def talk(_: Path) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, ["gpu", *arguments, "--config", str(directory / "rlhfd.toml")])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result.exit_code, result.stdout, result.stderr

    answer: tuple[int, str, str] = served(directory, gpu, talk)
    return answer


@pytest.mark.parametrize(
    ("arguments", "told", "said"),
    [
        (["release"], ("release", None), "released until `rlhfd gpu resume`\n"),
        (["release", "--for", "90"], ("release", 90.0), "released for 90 s\n"),
        (["resume"], "resume", "watching again\n"),
    ],
)
def test_what_is_asked_reaches_the_poller(arguments: list[str], told: object, said: str, short_dir: Path) -> None:
    stub = Stub()
    assert rlhfd(short_dir, stub, *arguments) == (0, said, "")
    assert stub.told == [told]


def test_a_process_that_still_holds_a_gpu_is_named_and_makes_the_exit_code_1(short_dir: Path) -> None:
    code, out, _ = rlhfd(short_dir, Stub(holders=[4242]), "release")
    assert code == 1
    assert "process 4242" in out


def test_status_shows_the_state_and_every_gpu(short_dir: Path) -> None:
    code, out, _ = rlhfd(short_dir, Stub(state="gpu_lost", detail="GPU 1", gpus=[GPU]), "status")
    assert code == 0
    assert out.startswith("gpu_lost: GPU 1\n")
    for shown in ("H100", "50%", "1 / 80", "hw_thermal"):
        assert shown in out
    code, out, _ = rlhfd(short_dir, Stub(gpus=[GPU]), "status", "--json")
    assert json.loads(out)["gpus"] == [GPU]


def test_what_cannot_be_done_is_one_line(short_dir: Path) -> None:
    code, out, err = rlhfd(short_dir, None, "release")
    assert (code, out) == (69, "")
    assert "pollers.gpu.enabled is false" in err
    stub = Stub()
    stub.error = OSError(28, "No space left on device")
    code, _, err = rlhfd(short_dir, stub, "release")
    assert code == 69
    assert "No space left" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("body", [{"seconds": -1}, {"seconds": 1e9}, {"seconds": "soon"}, {"minutes": 1}, []])
def test_a_wrong_request_is_refused(body: object, short_dir: Path) -> None:
    stub = Stub()

    def talk(path: Path) -> None:
        with pytest.raises(ControlError, match="400"):
            ask(path, "POST", "/api/v1/gpu/release", body)

    served(short_dir, stub, talk)
    assert stub.told == []


def test_promise_F3_when_the_command_has_returned_nothing_of_ours_has_nvml_open(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = FakeNvml(short_dir)
    for name, value in nvml.environ.items():
        monkeypatch.setenv(name, value)
    with driven(short_dir) as poller:
        poller.until_state("ok")
        assert nvml.open_handles == 1
        code, out, _ = rlhfd(short_dir, poller.poller, "release", "--for", "60")
        assert (code, out.splitlines()[-1], nvml.open_handles) == (0, "released for 60 s", 0)
        code, out, _ = rlhfd(short_dir, poller.poller, "status", "--json")
        assert json.loads(out)["released"] is True
        rlhfd(short_dir, poller.poller, "resume")
        poller.until_state("ok")
        assert nvml.open_handles == 1
