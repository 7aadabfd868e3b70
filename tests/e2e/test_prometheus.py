"""A real Prometheus scrapes a real daemon that a real emitter feeds; promtool finds nothing wrong with the page."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlhfd_daemon.metrics import TABLE
from rlhfd_daemon.outlets.naming import family
from rlhfd_emitter import Emitter
from support import DaemonProcess, invoked, running_daemon, wait_for

HTTP = '[http]\nlisten = "127.0.0.1:0"\n'
UNPACKED = Path(__file__).parents[2] / ".venv" / "prometheus" / "usr" / "bin"
FILLED = {"<datasource>": "math", "<n>": "8", "<role>": "PolicyModelActor-0", "<phase>": "train", "<device>": "sda"}


def program(name: str) -> str:
    """Where Debian's package or `make test` has put it."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        pytest.fail(f"{name} is needed: apt-get install prometheus, or run `make test`, which unpacks it into .venv")
    return found


def page(daemon: DaemonProcess, path: str = "/metrics", headers: Mapping[str, str] | None = None) -> str:
    """What the daemon serves, once it says where."""
    address = wait_for(lambda: daemon.status()["http"]["address"])
    request = urllib.request.Request(f"http://{address}{path}", headers=dict(headers or {}))
    with urllib.request.urlopen(request, timeout=10) as response:
        body: bytes = response.read()
    return body.decode()


class Prometheus:
    """A server that scrapes ``target`` twice a second, its data and log in ``folder``."""

    def __init__(self, folder: Path, target: str, authorization: str = "") -> None:
        folder.mkdir()
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "400ms"},
            "scrape_configs": [{"job_name": "rlhfd", "static_configs": [{"targets": [target]}]}],
        }
        if authorization:
            config["scrape_configs"][0]["authorization"] = {"credentials_file": authorization}  # type: ignore[index]
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "log"
        command = [
            program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={self.address}",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of what PromQL finds now; nothing while it starts."""
        if self.process.poll() is not None:
            pytest.fail(f"prometheus ended:\n{self.log.read_text()[-2000:]}")
        url = f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                answer: dict[str, Any] = json.load(response)
        except OSError:
            return []
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def values(self, expression: str) -> dict[str, float]:
        """By the label ``run``."""
        return {labels.get("run", ""): value for labels, value in self.query(expression)}


@contextlib.contextmanager
def scraping(folder: Path, target: str, authorization: str = "") -> Iterator[Prometheus]:
    server = Prometheus(folder, target, authorization)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(10)


def test_prometheus_reads_what_an_emitter_said(short_dir: Path) -> None:
    with running_daemon(short_dir, HTTP) as daemon:
        emitters = {
            run: Emitter(run, role="PPOTrainer", boot="b", endpoint=daemon.endpoint) for run in ("ppo-7", 'a "b"\\ü')
        }
        for step in range(1, 4):
            for value, emitter in enumerate(emitters.values(), 1):
                metrics = {"train/kl": value / 8, "train/return": math.nan, "judge/score": math.inf}
                emitter.emit(step, metrics)
        address = wait_for(lambda: daemon.status()["http"]["address"])
        with scraping(short_dir / "prometheus", address) as prometheus:
            expected = {"ppo-7": 0.125, 'a "b"\\ü': 0.25}
            wait_for(lambda: prometheus.values("rlhfd_train_kl") == expected, 60)
            assert prometheus.values("rlhfd_run_step") == dict.fromkeys(expected, 3.0)
            assert prometheus.values('rlhfd_user_metric{name="judge/score"}') == dict.fromkeys(expected, math.inf)
            assert all(math.isnan(value) for value in prometheus.values("rlhfd_train_return").values())
            assert prometheus.query("up")[0][1] == 1.0
            (labels, _), *others = prometheus.query('rlhfd_train_kl{run="ppo-7"}')
            assert others == []
            assert set(labels) == {"__name__", "instance", "job", "role", "run"}
            for emitter in emitters.values():
                emitter.emit(4, {"train/kl": 9.0})
                emitter.close()
            wait_for(lambda: prometheus.values("rlhfd_run_step") == dict.fromkeys(expected, 4.0), 30)
            wait_for(lambda: prometheus.values("rlhfd_run_live") == dict.fromkeys(expected, 0.0), 30)
            (_, frames), = prometheus.query("rlhfd_frames_total")  # fmt: skip
            assert frames >= 8


def test_a_page_with_every_metric_of_the_table_is_clean_for_promtool(short_dir: Path) -> None:
    names = [row.name for row in TABLE]
    for placeholder, value in FILLED.items():
        names = [name.replace(placeholder, value) for name in names]
    with running_daemon(short_dir, HTTP) as daemon:
        emitter = Emitter("ppo", role="everything", rank=0, boot="b", endpoint=daemon.endpoint)
        args = {"rollout.n_samples_per_prompt": 4}
        emitter.event("run_start", trainer="PPOTrainer", args=args, versions={"openrlhf": "0.11.2"})
        for first in range(0, len(names), 200):
            emitter.emit(1, dict.fromkeys(names[first : first + 200], 1.0))
        emitter.emit(1, {"my own/metric ü": math.nan})
        wait_for(lambda: "my own/metric ü" in page(daemon))
        text = page(daemon)
        emitter.close()
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    shown = {line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE")}
    assert {family(row).name for row in TABLE} <= shown
    broken = subprocess.run(
        [program("promtool"), "check", "metrics"], input="# TYPE x_ms gauge\nx_ms 1\n", capture_output=True, text=True
    )
    assert broken.returncode != 0, "the check itself sees what is wrong"


def test_a_token_keeps_others_out_and_prometheus_in(short_dir: Path) -> None:
    token = short_dir / "token"
    token.write_text("s3cret-s3cret-s3cret")
    token.chmod(0o600)
    with running_daemon(short_dir, f'{HTTP}token_file = "{token}"\n') as daemon:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            page(daemon)
        assert page(daemon, "/healthz") == "ok\n"
        assert "rlhfd_build_info" in page(daemon, headers={"Authorization": "Bearer s3cret-s3cret-s3cret"})
        address = daemon.status()["http"]["address"]
        with scraping(short_dir / "prometheus", address, str(token)) as prometheus:
            wait_for(lambda: prometheus.query("rlhfd_build_info"), 60)


def test_a_port_that_is_taken_leaves_the_daemon_running_and_says_so(short_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with running_daemon(short_dir, f'[http]\nlisten = "127.0.0.1:{port}"\n') as daemon:
            error = wait_for(lambda: daemon.status()["http"]["error"])
            assert "in use" in error.lower()
            assert f"127.0.0.1:{port}" in error
            emitter = Emitter("ppo", endpoint=daemon.endpoint)
            emitter.emit(1, {"loss": 1.0})
            wait_for(lambda: any(stream["frames"] for stream in daemon.streams().values()))
            emitter.close()


def test_steps_are_written_and_survive_kill_9_without_a_line_twice(short_dir: Path) -> None:
    daemon = DaemonProcess(short_dir, HTTP + "[steps]\nenabled = true\n").start()
    path = daemon.state / "runs" / "ppo" / "b" / "steps.jsonl"

    def steps() -> list[int]:
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    emitter = Emitter("ppo", role="PPOTrainer", boot="b", endpoint=daemon.endpoint)
    try:
        for step in range(1, 21):
            emitter.emit(step, {"train/kl": step / 8, "train/return": math.nan})
        wait_for(lambda: len(steps()) >= 19)
        daemon.kill()
        for step in range(21, 31):
            emitter.emit(step, {"train/kl": step / 8})
        daemon.start()
        wait_for(lambda: len(steps()) >= 29, 30)
        emitter.close()
        wait_for(lambda: len(steps()) >= 30, 30)
    finally:
        daemon.stop()
    assert steps() == list(range(1, 31))
    row = json.loads(path.read_text().splitlines()[7])
    assert (row["train/kl"], math.isnan(row["train/return"])) == (1.0, True)
    assert abs(row["time"] - time.time()) < 120


def test_runs_and_topology_tell_of_a_real_run(short_dir: Path) -> None:
    with running_daemon(short_dir, HTTP) as daemon:
        emitter = Emitter("ppo", role="PPOTrainer", rank=3, boot="b", endpoint=daemon.endpoint)
        emitter.event("process_start", hostname="node-7", cuda_visible_devices="0")
        emitter.event("run_start", trainer="PPOTrainer", args={"pretrain": "m"}, versions={"openrlhf": "0.9.0"})
        emitter.event("phase_begin", step=2, phase="train", id=1)
        emitter.emit(2, {"train/kl": 1.0})
        wait_for(lambda: daemon.status()["runs"] and daemon.status()["runs"][0]["step"] == 2)
        told = rlhfd(daemon, "runs", "--json")["runs"]
        assert [(run["run"], run["model"], run["openrlhf"], run["step"]) for run in told] == [("ppo", "m", "0.9.0", 2)]
        assert rlhfd(daemon, "runs", "ppo", "--json")["runs"][0]["context"]["args"] == {"pretrain": "m"}
        (process,) = rlhfd(daemon, "topology", "ppo", "--json")["runs"][0]["processes"]
        assert (process["host"], process["rank"], process["pid"]) == ("node-7", 3, os.getpid())
        assert (process["phase"], process["gpus"]) == ("train", "0")
        unknown = invoked("topology", "nobody", "--config", daemon.config)
        assert (unknown.returncode, "no run of this name" in unknown.stderr) == (1, True)
        emitter.close()


def rlhfd(daemon: DaemonProcess, *arguments: str) -> dict[str, Any]:
    """The JSON that the command prints."""
    result = invoked(*arguments, "--config", daemon.config)
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer
