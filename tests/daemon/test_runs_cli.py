"""`rlhfd runs` and `rlhfd topology`: what they answer, and what they print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner

from recorded import Feed
from rlhfd_daemon import runs_cli
from rlhfd_daemon.cli import app
from rlhfd_daemon.observation import Subject
from rlhfd_daemon.outlets.latest import Latest
from rlhfd_daemon.ray_session import Unobserved
from rlhfd_daemon.render import console
from rlhfd_daemon.run_report import PROCESS, RunReport
from rlhfd_daemon.runs import DAEMON_ROLE, Runs

NOW = 1_700_000_000.0
CONTEXT = {
    "trainer": "PPOTrainer",
    "args": {
        "algo.advantage.estimator": "group_norm", "actor.model_name_or_path": "Qwen/Qwen3-4B", "hf_token": "[redacted]",
    },
    "versions": {"openrlhf": "0.11.2", "torch": "2.9.0"},
}  # fmt: skip


class Known:
    """A daemon that knows some runs."""

    def __init__(
        self,
        firing: tuple[tuple[str, str], ...] = (),
        methods: Mapping[int, str] | None = None,
        unobserved: tuple[Unobserved, ...] = (),
    ) -> None:
        self.runs = Runs()
        latest = Latest(self.runs)
        self.feed = Feed(self.runs, latest)
        alerts: Any = [SimpleNamespace(finding=SimpleNamespace(run=run, boot=boot)) for run, boot in firing]
        self.report = RunReport(
            self.runs,
            latest,
            firing=lambda: alerts,
            steps=lambda run, boot: Path(f"/state/{run}/{boot}"),
            methods=lambda: methods or {},
            unobserved=lambda: unobserved,
        )

    def event(self, name: str, at: float = NOW, fields: Mapping[str, object] | None = None, **changes: Any) -> None:
        self.feed(at, kind="event", event=name, fields=dict(fields or {}), **changes)

    def start(self, role: str, rank: int | None = None, run: str = "r", **fields: object) -> None:
        start = {"hostname": "node-7", "cuda_visible_devices": "0,1", "world_size": 2, **fields}
        self.event("process_start", run=run, role=role, rank=rank, fields=start)


def printed(what: RenderableType, width: int = 200) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def the(answer: dict[str, object]) -> dict[str, Any]:
    """The only run of an answer."""
    runs = answer["runs"]
    assert isinstance(runs, list)
    (run,) = runs
    return dict(run)


def test_a_run_is_told_with_what_it_trains() -> None:
    known = Known(firing=(("r", "b"), ("r", "b"), ("r", "older")))
    known.start("PPOTrainer")
    known.event("run_start", role="PPOTrainer", rank=None, fields=CONTEXT)
    known.feed(NOW + 5, step=7, role="PPOTrainer", rank=None, metrics={"train/kl": 1.0})
    assert the(known.report.runs(None)) == {
        "run": "r", "boot": "b", "trainer": "PPOTrainer", "algorithm": "group_norm", "model": "Qwen/Qwen3-4B",
        "openrlhf": "0.11.2", "step": 7, "first_seen": NOW, "last_seen": NOW + 5, "live": True, "ended": None,
        "processes": 1, "processes_live": 1, "alerts": 2, "steps": "/state/r/b",
    }  # fmt: skip
    assert the(known.report.runs("r"))["context"] == CONTEXT
    assert known.report.runs("other")["runs"] == []


def test_older_versions_flat_arguments_are_understood() -> None:
    known = Known()
    args = {"advantage_estimator": "rloo", "pretrain": "meta/llama"}
    known.event("run_start", fields={"trainer": "PPOTrainer", "args": args, "versions": {"openrlhf": "0.8.5"}})
    found = the(known.report.runs(None))
    assert (found["algorithm"], found["model"], found["openrlhf"]) == ("rloo", "meta/llama", "0.8.5")


def test_a_run_that_said_nothing_is_told_with_what_is_known() -> None:
    known = Known()
    known.feed(NOW, metrics={"loss": 1.0})
    found = the(known.report.runs("r"))
    assert (found["trainer"], found["algorithm"], found["model"], found["context"]) == (None, None, None, {})
    assert "metadata: none yet" in "\n".join(runs_cli._metadata(found))


def test_how_a_run_ended_is_told() -> None:
    known = Known()
    known.start("PPOTrainer")
    known.start("PolicyModelActor", 0)
    known.event("process_stop", role="PPOTrainer", rank=None)
    (stream,) = (one.stream for one in known.runs.streams.values() if one.role == "PolicyModelActor")
    known.event("stream_end", role=DAEMON_ROLE, rank=None, fields={"stream": stream, "reason": "exited_without_bye"})
    found = the(known.report.runs(None))
    assert (found["live"], found["ended"]) == (False, {"process_stop": 1, "exited_without_bye": 1})
    assert "ended: exited_without_bye" in printed(runs_cli.runs_table([found], NOW))


def test_neither_the_node_nor_the_daemon_is_a_run_or_a_process() -> None:
    known = Known()
    known.feed(NOW, run="node:h", role=DAEMON_ROLE, rank=None, metrics={"host/cpu_ratio": 1.0})
    assert known.report.runs(None)["runs"] == known.report.topology(None)["runs"] == []
    known.start("PPOTrainer")
    known.feed(NOW, role=DAEMON_ROLE, rank=None, metrics={"process/PPOTrainer/rss_bytes": 1.0})
    assert [one["role"] for one in the(known.report.topology(None))["processes"]] == ["PPOTrainer"]


def test_the_topology_says_where_each_process_is_and_what_it_does() -> None:
    known = Known(methods={42: "ppo_train"})
    known.start("PolicyModelActor", 1)
    known.event("phase_begin", NOW + 3, {"phase": "train", "id": 1}, role="PolicyModelActor", rank=1, step=4)
    metrics = {"process/PolicyModelActor-1/rss_bytes": 2.0**31, "process/PolicyModelActor-1/busy_ratio": 0.75}
    known.feed(NOW + 4, role=DAEMON_ROLE, rank=None, metrics=metrics)
    run = the(known.report.topology(None))
    assert run["processes"] == [
        {
            "host": "node-7", "role": "PolicyModelActor", "rank": 1, "world_size": 2, "process": "PolicyModelActor-1",
            "pid": 42, "gpus": "0,1", "phase": "train", "phase_since": NOW + 3, "method": "ppo_train",
            "busy_ratio": 0.75, "rss_bytes": 2.0**31, "step": 4, "hooks": {}, "last_seen": NOW + 3, "ended": None,
        }
    ]  # fmt: skip
    text = printed(runs_cli.topology_tables([run], NOW + 10))
    for cell in ("node-7", "PolicyModelActor", "0,1", "train", "7 s", "ppo_train", "75 %", "2.0 GiB", "7 s ago"):
        assert cell in text


def test_the_topology_says_which_hooks_of_whom_see_nothing() -> None:
    known = Known()
    known.start("PolicyModelActor", 1)
    known.event("attached", fields={"bound": ["a"], "missing": ["b", "c"], "changed": {"c": "logs"}},
                role="PolicyModelActor", rank=1)  # fmt: skip
    failed = {"hook": "a", "error": "ValueError: \x1b[31moops", "failures": 3, "disabled": True}
    known.event("hook_failed", fields=failed, role="PolicyModelActor", rank=1)
    run = the(known.report.topology(None))
    assert list(run["processes"][0]["hooks"]) == ["a", "b", "c"]
    text = printed(runs_cli.topology_tables([run], NOW))
    assert (
        "PolicyModelActor rank 1 (pid 42): hook a switched off after 3 failures in a row: ValueError:  [31moops" in text
    )
    assert "hook c changed: the running version's function has no parameter logs" in text
    run["processes"][0]["ended"] = "process_stop"
    assert "switched off" not in printed(runs_cli.topology_tables([run], NOW))


def test_a_process_that_is_gone_has_no_memory_any_more_and_comes_last() -> None:
    known = Known()
    known.start("APolicy", 0)
    known.feed(NOW, role=DAEMON_ROLE, rank=None, metrics={"process/APolicy-0/rss_bytes": 1.0})
    known.event("process_stop", role="APolicy")
    known.start("Trainer")
    first, last = the(known.report.topology(None))["processes"]
    assert (first["role"], first["ended"]) == ("Trainer", None)
    assert (last["role"], last["ended"], last["rss_bytes"]) == ("APolicy", "process_stop", None)


def test_the_topology_of_a_run_that_is_over_is_told_when_asked_for() -> None:
    known = Known()
    known.start("Trainer")
    known.event("process_stop", role="Trainer", rank=None)
    assert known.report.topology(None)["runs"] == []
    assert the(known.report.topology("r"))["live"] is False


def test_hostile_names_print_as_they_are() -> None:
    known = Known()
    known.feed(NOW, run="[bold]x[/bold]", role="[red]", metrics={"a": 1.0})
    found = the(known.report.runs("[bold]x[/bold]"))
    assert "[bold]x[/bold]" in printed(runs_cli.runs_table([found], NOW))
    assert "[red]" in printed(runs_cli.topology_tables([the(known.report.topology(None))], NOW))
    found["context"] = {"args": {"a\x1b[31m": "b\nc"}}
    (line,) = [one for one in runs_cli._metadata(found) if one.startswith("args")]
    assert line == "args: a [31m = b c"


def test_promise_E10_names_do_not_command_the_terminal() -> None:
    known = Known()
    known.feed(NOW, run="a\x1b[2Jb\nc", role="r\x1b]0;title\x07", metrics={"a": 1.0})
    text = printed(runs_cli.runs_table([the(known.report.runs(None))], NOW))
    text += printed(runs_cli.topology_tables([the(known.report.topology(None))], NOW))
    assert "a [2Jb c" in text
    assert "r ]0;title" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_nothing_is_cut_off_on_a_narrow_terminal_and_what_nobody_knows_has_no_column() -> None:
    known = Known()
    known.feed(NOW, run="grpo-qwen3-4b", role="PolicyModelActor", rank=0, metrics={"a": 1.0})
    runs = printed(runs_cli.runs_table([the(known.report.runs(None))], NOW), 80)
    topology = printed(runs_cli.topology_tables([the(known.report.topology(None))], NOW), 80)
    assert "grpo-qwen3-4b" in runs
    assert "PolicyModelActor" in topology
    assert "algorithm" not in runs
    assert "GPUs" not in topology
    assert "…" not in runs + topology


def test_a_pipe_gets_every_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    known = Known()
    name = "ppo-" + "x" * 90
    known.start("PolicyModelActor", 0, run=name)
    console().print(runs_cli.runs_table([the(known.report.runs(None))], NOW))
    assert name in capsys.readouterr().out


def test_metadata_is_listed_name_by_name() -> None:
    lines = list(runs_cli._metadata({"steps": "/state/s", "context": CONTEXT}))
    assert lines[0] == "steps: /state/s"
    assert "versions: openrlhf = 0.11.2" in lines
    assert "args: hf_token = [redacted]" in lines


def test_nothing_known_is_said_in_words() -> None:
    assert "no run has been seen" in printed(runs_cli.runs_table([], time.time()))
    assert "no run is live" in printed(runs_cli.topology_tables([], time.time()))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (200_000, "2 d"), (-5, "0 s")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert runs_cli._duration(seconds) == text


@pytest.mark.parametrize("command", ["runs", "topology"])
def test_without_a_daemon_the_error_is_one_line(command: str, tmp_path: Path) -> None:
    config = tmp_path / "rlhfd.toml"
    config.write_text(f'[control]\nsocket = "{tmp_path}/control.sock"')
    result = CliRunner().invoke(app, [command, "--config", str(config)])
    assert result.exit_code == 69
    assert "no daemon answers" in result.stderr
    assert "Traceback" not in result.output


def test_actors_without_an_emitter_are_shown_with_their_run() -> None:
    others = tuple(
        Unobserved(Subject(run, "b"), "VLLMLock-1", "VLLMLock", 77, "acquire", 0.25) for run in ("r", "node:h")
    )
    known = Known(unobserved=others)
    known.start("PPOTrainer")
    found = the(known.report.topology(None))
    trainer, lock = found["processes"]
    assert set(trainer) == set(lock) == set(PROCESS)
    assert (trainer["role"], lock["role"], lock["process"], lock["pid"]) == ("PPOTrainer", "VLLMLock", "VLLMLock-1", 77)
    assert (lock["method"], lock["busy_ratio"], lock["rank"]) == ("acquire", 0.25, None)
    assert "acquire" in (text := printed(runs_cli.topology_tables([found], NOW)))
    assert "25 %" in text
