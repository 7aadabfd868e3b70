"""A program as a receiver: what it gets, what its end means, that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from goldens import CONTEXT
from rlhfd_alerts.errors import DeliveryError, TargetError
from rlhfd_alerts.receivers.command import CommandReceiver, CommandSettings
from rlhfd_alerts.sample import sample
from rlhfd_alerts.target import Target


def send(*argv: str, **settings: Any) -> str:
    receiver = CommandReceiver(Target("run", CommandSettings(argv=argv, **settings)), CONTEXT)
    return asyncio.run(receiver.send(*sample("node-7", False, 1.7e9), 1.7e9))


def python(code: str, **settings: Any) -> str:
    return send(sys.executable, "-c", code, **settings)


def test_it_gets_the_body_and_a_few_words_and_no_secret_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "canary")
    out = tmp_path / "out"
    dump = f"import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open({str(out)!r}, 'w'))"
    python(dump)
    body, environ = json.loads(out.read_text())
    assert body["data"]["run"] == environ["RLHFD_ALERT_RUN"] == "rlhfd-test"
    assert (environ["RLHFD_STATE"], environ["RLHFD_SEVERITY"]) == ("firing", "critical")
    assert environ["RLHFD_NOTIFICATION"].startswith("msg_test_")
    assert "canary" not in environ.values()
    assert "RLHFD_RUN" not in environ


def test_no_shell_looks_at_its_arguments() -> None:
    assert send("/bin/echo", "$HOME `id` ; rm -rf /nothing") == "$HOME `id` ; rm -rf /nothing"


@pytest.mark.parametrize(("code", "permanent"), [(75, False), (1, True), (2, True)])
def test_how_it_ends_counts(code: int, permanent: bool) -> None:
    with pytest.raises(DeliveryError, match=f"ended with {code}: no way") as caught:
        python(f"print('no\\x1b way'.replace(chr(27), '')); raise SystemExit({code})")
    assert caught.value.permanent is permanent


def test_one_that_is_killed_is_worth_another_try() -> None:
    with pytest.raises(DeliveryError) as caught:
        python("import os; os.kill(os.getpid(), 9)")
    assert not caught.value.permanent


def test_it_is_killed_with_its_children_when_late(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, subprocess, sys, time; child = subprocess.Popen(['/bin/sleep', '99']);"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(99)"
    )
    began = time.monotonic()
    with pytest.raises(DeliveryError, match="longer than 2 s") as caught:
        python(code, timeout_seconds=2.0)
    assert not caught.value.permanent
    assert time.monotonic() - began < 60
    for pid in map(int, pids.read_text().split()):
        deadline = time.monotonic() + 10
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_any_amount_of_output_is_read_and_little_of_it_kept() -> None:
    said = python("import sys; sys.stdout.write('x' * 10_000_000)")
    assert len(said) <= 200


def test_one_that_does_not_read_its_input_is_no_failure() -> None:
    python("import os; os.close(0)")


def test_a_program_that_is_not_there_is_refused_when_made(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is no program"):
        send("/no/such/program")
    assert [field for field, _ in CommandSettings(argv=("ls",), secret_env="A").faults()] == ["argv", "secret_file"]
    gone = tmp_path / "gone"
    gone.write_text("#!/bin/sh\n")
    gone.chmod(0o755)
    receiver = CommandReceiver(Target("run", CommandSettings(argv=(str(gone),))), CONTEXT)
    os.unlink(gone)
    with pytest.raises(DeliveryError, match="cannot be started: No such file"):
        asyncio.run(receiver.send(*sample("h", False, 1.7e9), 1.7e9))
