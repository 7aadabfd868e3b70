"""`rlhfd check`: the same alerts as the live daemon's, from a log of any format, and exit codes that gate a job."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import math
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhfd_alerts.alert import Alert
from rlhfd_alerts.outbox import Outbox
from rlhfd_alerts.testing import SECRET, WebhookServer
from rlhfd_daemon.analyzers.families import FAMILIES
from rlhfd_daemon.cli import app
from rlhfd_daemon.frame import MAX_METRICS
from rlhfd_daemon.framelog import FrameLog
from rlhfd_emitter import Emitter
from support import DaemonProcess, running_daemon, wait_for
from wire import packed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "traces"
FIELDS = [
    "kind", "state", "step", "time", "rule", "family", "severity", "metric", "value", "episode", "onset_step",
    "summary", "remedy",
]  # fmt: skip
T0 = 1_700_000_000


def checked(path: Path, *options: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["check", str(path), *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def alerts(path: Path, *options: object) -> list[dict[str, Any]]:
    """The objects that `--json` prints."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    out = checked(path, "--json", *options)[1]
    return [json.loads(line, parse_constant=refuse) for line in out.splitlines()]


def told(path: Path) -> list[tuple[object, ...]]:
    """What is the same live and offline, in order."""
    return [(one["rule"], one["metric"], one["onset_step"], one["state"]) for one in alerts(path)]


def run(steps: int = 150) -> Iterator[dict[str, float]]:
    """The reward falls at step 60 and comes back at 80; the critic's loss is NaN from 120 to 124, the KL from 123 to
    the end: two episodes."""
    source = random.Random(7)
    for step in range(1, steps + 1):
        yield {
            "step": step,
            "time": T0 + step,
            "train/policy_loss": source.gauss(0.1, 0.01),
            "train/reward": source.gauss(-4.0 if 60 <= step < 80 else 0.5, 0.01),
            "train/critic_loss": math.nan if 120 <= step < 125 else source.gauss(1, 0.1),
            "train/kl": math.nan if step >= 123 else source.gauss(0.1, 0.01),
        }


def jsonl(path: Path, rows: Iterator[dict[str, float]] | list[dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics_of(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("train/")}


async def lived(folder: Path, rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """What a real daemon's webhook says while the rows are emitted."""
    async with WebhookServer() as server:
        config = f'[targets.ops]\nurl = "{server.url}"\nsecret_env = "HOOK_SECRET"\nallow_private = true\n'

        def emit() -> None:
            with running_daemon(folder, config, {"HOOK_SECRET": SECRET}) as daemon:
                emitter = Emitter("live", role="PPOTrainer", rank=0, endpoint=daemon.endpoint)
                for row in rows:
                    emitter.emit(int(row["step"]), metrics_of(row))
                emitter.close(5.0)
                wait_for(lambda: _settled(daemon, len(rows)))

        await asyncio.to_thread(emit)
        return [json.loads(request.body)["data"] for request in server.requests]


def stored(folder: Path) -> list[Alert]:
    """The alerts as a daemon that has ended left them."""
    outbox = Outbox.open(folder / "state" / "alerts.sqlite3")
    try:
        return outbox.alerts()
    finally:
        outbox.close()


def _settled(daemon: DaemonProcess, frames: int) -> bool:
    status = daemon.status()
    deliveries = status["targets"]["ops"]
    taken = status["ingest"]["frames_total"] >= frames
    return bool(taken and deliveries.get("delivered") and not deliveries.get("pending"))


def test_live_and_offline_agree(short_dir: Path, tmp_path: Path) -> None:
    rows = list(run())
    messages = asyncio.run(lived(short_dir, rows))
    path = jsonl(tmp_path / "run.jsonl", rows)
    offline = told(path)
    assert ("level_change", "train/reward", 60, "firing") in offline
    assert ("level_change", "train/reward", 60, "resolved") in offline
    assert ("non_finite", "train/critic_loss", 120, "resolved") in offline
    assert ("non_finite", "train/kl", 123, "firing") in offline
    assert told(short_dir / "state" / "frames") == offline

    last = {(one["rule"], one["metric"]): one for one in alerts(short_dir / "state" / "frames")}
    live = {(one.finding.rule, one.finding.metric): one for one in stored(short_dir)}
    assert {key: (one["state"], one["episode"], one["onset_step"], one["severity"]) for key, one in last.items()} == {
        key: (one.state.value, one.finding.episode, one.finding.onset_step, one.finding.severity.value)
        for key, one in live.items()
    }
    parts = [{(one["metric"], one["episode"]) for one in alerts(log)} for log in (path, short_dir / "state" / "frames")]
    assert _partition(parts[0]) == _partition(parts[1])

    reward, nan = dict.fromkeys(one["episode"] for one in alerts(short_dir / "state" / "frames"))
    assert [(one["state"], one["episode"]["id"], one["rule"]) for one in messages] == [
        ("firing", reward, "level_change"),
        ("resolved", reward, "level_change"),
        ("firing", nan, "non_finite"),
    ]


def _partition(pairs: set[tuple[str, str]]) -> set[frozenset[str]]:
    """The metrics that share an episode."""
    return {frozenset(name for name, id_ in pairs if id_ == episode) for _, episode in pairs}


def test_every_format_tells_the_same(tmp_path: Path) -> None:
    rows = list(run())
    path = jsonl(tmp_path / "run.jsonl", rows)
    expected = alerts(path)
    assert [one["state"] for one in expected].count("resolved") >= 2
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    others = {
        "run.csv": table.getvalue(),
        "trainer_state.json": json.dumps({"log_history": rows}),
        "bare.jsonl": path.read_text().replace("train/", ""),
        "nested.jsonl": "".join(
            json.dumps({"step": row["step"], "time": row["time"], "metrics": metrics_of(row)}) + "\n" for row in rows
        ),
        "console": "".join(
            f"step:{row['step']} - " + " - ".join(f"{key}:{value!r}" for key, value in metrics_of(row).items()) + "\n"
            for row in rows
        ),
    }
    for name, text in others.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / "run.jsonl").write_text(text)  # the fingerprint is of the run, which has the file's name
        found = alerts(folder / "run.jsonl")
        times = {"time": None} if name == "console" else {}
        assert found == [{**one, **times} for one in expected], name
        (folder / "run.jsonl").write_bytes(gzip.compress(text.encode()))
        assert alerts(folder / "run.jsonl") == found


def test_an_alert_is_one_object_with_the_fields_that_were_promised(tmp_path: Path) -> None:
    found = alerts(jsonl(tmp_path / "run.jsonl", run()))
    assert all(list(one) == FIELDS for one in found)
    assert all(one["kind"] == "alert" and one["family"] in FAMILIES for one in found)
    assert all(one["state"] in ("firing", "resolved") and one["remedy"] and one["summary"] for one in found)
    (nan,) = (one for one in found if one["metric"] == "train/kl")
    assert (nan["value"], nan["step"], nan["time"], nan["severity"]) == ("NaN", 123, T0 + 123, "critical")
    reward = next(one for one in found if one["metric"] == "train/reward")
    assert (reward["family"], reward["severity"]) == ("reward", "warning")


def test_alerts_of_one_cause_share_an_episode(tmp_path: Path) -> None:
    found = alerts(jsonl(tmp_path / "run.jsonl", run()))
    episodes = {one["metric"]: one["episode"] for one in found}
    assert episodes["train/reward"] != episodes["train/critic_loss"] == episodes["train/kl"]
    assert len(set(episodes.values())) == 2
    assert all(one["episode"] == episodes[one["metric"]] for one in found), "the end has the id of the beginning"
    lines = Counter((one["metric"], one["state"]) for one in found)
    assert set(lines.values()) == {1}
    assert lines["train/kl", "resolved"] == 0


def test_what_comes_and_goes_keeps_its_episode_and_what_is_back_much_later_does_not(tmp_path: Path) -> None:
    bad = [*range(10, 100, 20), 900]
    rows = [{"step": step, "time": T0 + 60 * step, "a": math.nan if step in bad else 1.0} for step in range(1000)]
    found = alerts(jsonl(tmp_path / "run.jsonl", rows))
    begun = [(one["onset_step"], one["episode"]) for one in found if one["state"] == "firing"]
    assert [step for step, _ in begun] == bad
    assert [len({id_ for step, id_ in begun if (step < 900) is early}) for early in (True, False)] == [1, 1]
    assert len({id_ for _, id_ in begun}) == 2


@pytest.mark.parametrize(
    ("faults", "code"), [((), 0), (("reward",), 1), (("kl",), 2), (("kl", "reward", "critic_loss"), 2)]
)
def test_the_exit_code_is_that_of_the_worst_alert(faults: tuple[str, ...], code: int, tmp_path: Path) -> None:
    kept = {"step", "train/policy_loss", *(f"train/{name}" for name in faults)}
    rows = [{name: value for name, value in row.items() if name in kept} for row in run()]
    path = jsonl(tmp_path / "run.jsonl", rows)
    for options in ((), ("--json",)):
        assert checked(path, *options)[0] == code
    assert bool(alerts(path)) == bool(code)


def test_the_report_names_steps_metrics_evidence_and_remedy_the_worst_first(tmp_path: Path) -> None:
    code, out, err = checked(jsonl(tmp_path / "run.jsonl", run()))
    assert (code, err) == (2, "")
    assert out.index("CRITICAL") < out.index("WARNING")
    for text in ("since step 120, confidence 0.9", "steps 120 to 129", "since step 123", "×", "Stop the run"):
        assert text in out
    assert out.index("train/critic_loss became NaN at step 120") < out.index("steps 120 to 129")
    assert out.index("train/critic_loss  ") < out.index("train/kl  "), "the first cause first"
    assert out.count("Stop the run") == 1
    last = out.splitlines()[-1]
    assert last.startswith(f"150 steps of 4 metrics read from {tmp_path}/run.jsonl (JSON lines); ")
    assert last.endswith("2 episodes: 1 critical, 1 warning.")
    assert len(out.splitlines()) < 25
    assert checked(jsonl(tmp_path / "good.jsonl", list(run())[:50]))[1].endswith("; nothing found.\n")


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path: Path) -> None:
    rows = [{"step": step, "a\x1b[2Jb\n[red]": math.nan} for step in range(3)]
    out = checked(jsonl(tmp_path / "run.jsonl", rows))[1]
    assert "\x1b" not in out
    assert "[red]" in out


@pytest.mark.parametrize("name", ["events.out.tfevents.1700000000.host", "run-0_31_0.wandb.gz", "run-0_13_11.wandb.gz"])
def test_real_loggers_files_show_the_nan(name: str) -> None:
    found = alerts(FIXTURES / name)
    assert [(one["metric"], one["onset_step"]) for one in found] == [("train/reward", 45)]


def test_verl_s_and_trl_s_names_are_the_table_s(tmp_path: Path) -> None:
    for key, beside in (("actor/kl_loss", "actor/pg_loss"), ("kl", "completions/mean_length")):
        rows = [{"step": step, key: math.nan if step > 5 else 0.1, beside: 1.0} for step in range(9)]
        found = alerts(jsonl(tmp_path / "run.jsonl", rows))
        assert found[0]["metric"] == "train/kl"


def test_a_log_without_steps_is_counted_and_one_without_times_says_none(tmp_path: Path) -> None:
    (found,) = alerts(jsonl(tmp_path / "run.jsonl", [{"a": 1.0}, {"a": 2.0}, {"a": math.inf}]))
    assert (found["onset_step"], found["step"], found["time"], found["value"]) == (3, 3, None, "Infinity")


def test_more_metrics_than_a_frame_holds_are_all_read(tmp_path: Path) -> None:
    count = MAX_METRICS * 2 + 10
    rows = [{"step": step, **{f"m{index}": math.nan if step else 1.0 for index in range(count)}} for step in range(2)]
    path = jsonl(tmp_path / "run.jsonl", rows)
    assert len(alerts(path)) == count
    assert f"2 steps of {count} metrics" in checked(path)[1]


def test_ratios_that_a_step_file_holds_already_are_not_counted_twice(tmp_path: Path) -> None:
    rows = list(run())
    plain = alerts(jsonl(tmp_path / "run.jsonl", rows))
    assert any(one["metric"] == "rlhfd/ratio_of/kl_policy_loss" for one in plain)
    with_ratios = [
        {**row, "rlhfd/ratio_of/kl_policy_loss": 7.0, "rlhfd/ratio_of/value_policy_loss": 7.0} for row in rows
    ]
    assert alerts(jsonl(tmp_path / "run.jsonl", with_ratios)) == plain


def test_a_resumed_run_keeps_its_order_and_is_not_counted_twice(tmp_path: Path) -> None:
    rows = list(run(50))
    path = jsonl(tmp_path / "run.jsonl", rows + rows[30:])
    code, out, _ = checked(path)
    assert code == 0
    assert "\n50 steps of 4 metrics" in out


def test_the_configuration_s_analyzers_are_obeyed(tmp_path: Path) -> None:
    config = tmp_path / "rlhfd.toml"
    config.write_text("[analyzers.non_finite]\nenabled = false\n[analyzers.adaptive]\nenabled = false\n")
    assert checked(jsonl(tmp_path / "run.jsonl", run()), "--config", config)[0] == 0


def test_damage_is_named_and_skipped_or_with_strict_the_end(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "run.jsonl", run(30))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:10], *["garbage\n"] * 8, *lines[10:], '{"half']))
    code, out, err = checked(path)
    assert code == 0
    assert "30 steps" in out
    assert "8 damaged places skipped" in out
    assert f"{path}: line 11: not a JSON object" in err
    assert len(err.splitlines()) == 6
    code, _, err = checked(path, "--strict")
    assert code == 3
    assert "line 11" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02" * 500, "no log that rlhfd knows"),
        (b"just text\nof no use\n", "no metric in it"),
        (b'{"step": 1, "note": "x"}\n', "no metric in it"),
        (b'{"step": 1, "half": ', "no metric in it"),
        (b"\x1f\x8bnot gzip", "damaged archive"),
        (b"RLHFDLOG\x01\x00\x00\x00\x00\x00\x00\x00", "no recorded frame"),
        (b"RLHFDLOG" + b"x" * 100, "no recorded frame"),
    ],
)
def test_bad_input_is_one_line_that_names_the_file_and_exit_3(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    for options in ((), ("--json",)):
        code, out, err = checked(path, *options)
        assert (code, out) == (3, "")
        assert says in err.splitlines()[-1]
        assert str(path) in err


def test_what_is_not_there_or_endless_or_wrong_usage_is_exit_3(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, says in ((tmp_path / "fifo", "regular file"), (tmp_path / "no", "No such file"), (tmp_path, "no log")):
        code, _, err = checked(path)
        assert code == 3
        assert says in err if path != tmp_path else True
    assert checked(tmp_path, "--nonsense")[0] == 3
    assert CliRunner().invoke(app, ["check"]).exit_code == 3
    good = jsonl(tmp_path / "run.jsonl", run(3))
    assert checked(good, "--config", tmp_path / "missing.toml")[0] == 3


def test_a_frame_log_of_several_runs_names_each(tmp_path: Path) -> None:
    log = FrameLog(tmp_path / "frames")
    log.open()
    ns = T0 * 10**9
    for name in ("one", "two"):
        log.append([(ns, 0, 1, packed(1, run=name, stream=name, metrics={"a": math.nan}))])
    log.close()
    code, out, _ = checked(tmp_path)
    assert code == 2
    assert "one: a became NaN" in out
    assert "two: a became NaN" in out
    assert len({one["episode"] for one in alerts(tmp_path)}) == 2


def test_a_huge_log_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl.gz"
    line = ('{"step": 1, "note": "' + "x" * 200_000 + '", "b": 1}\n').encode()
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(line * 20)  # 320 MB unpacked
        file.write(b'{"step": 2, "b": NaN}\n')
    limit = 700 << 20
    result = subprocess.run(
        [sys.executable, "-m", "rlhfd_daemon", "check", str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert result.returncode == 2, result.stderr
    assert "b became NaN at step 2" in result.stdout
