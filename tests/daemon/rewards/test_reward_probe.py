"""`rlhfd reward probe`: a real HTTP reward model and real reward functions, which change, fail, hang and end."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhfd_daemon.cli import app
from rlhfd_daemon.rewards.canary import Baseline, Pair, budget_of, compare
from support import wait_for

Reply = Callable[[dict[str, Any]], tuple[int, bytes]]
PAIRS = [{"id": f"c{at}", "prompt": f"2+{at}=", "response": str(2 + at), "label": str(2 + at)} for at in range(5)]


class RewardModel:
    """OpenRLHF's remote reward model protocol; ``reply`` may be changed at any time."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reply: Reply = lambda body: (200, json.dumps({"rewards": [float(len(body["query"][0]))]}).encode())
        self.release = threading.Event()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.requests.append(body)
                status, answer = model.reply(body)
                with contextlib.suppress(ConnectionError):  # a probe that has given up
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(answer)))
                    if status == 302:
                        self.send_header("Location", "/elsewhere")
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/get_reward"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def model() -> Iterator[RewardModel]:
    served = RewardModel()
    yield served
    served.close()


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return written(tmp_path / "pairs.jsonl", PAIRS)


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def probe(pairs: Path, *options: object) -> tuple[int, str, str]:
    baseline = pairs.with_name("baseline.json")
    result = CliRunner().invoke(app, ["reward", "probe", str(pairs), "--baseline", str(baseline), *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def found(pairs: Path, *options: object) -> dict[str, Any]:
    code, out, err = probe(pairs, "--json", *options)
    assert out, err
    answer: dict[str, Any] = json.loads(out)
    assert answer["exit_code"] == code
    return answer


def test_a_scorer_that_stays_the_same_has_changed_nothing(model: RewardModel, pairs: Path) -> None:
    first = found(pairs, "--url", model.url)
    assert (first["exit_code"], first["scored"], first["compared"], first["baseline_written"]) == (0, 5, 0, True)
    second = found(pairs, "--url", model.url)
    assert (second["exit_code"], second["compared"], second["baseline_written"]) == (0, 5, False)
    assert (second["calls"], second["failed"]) == (5, 0)
    assert 0 < second["latency_p50_seconds"] <= second["latency_p95_seconds"] <= second["latency_p99_seconds"] < 30
    assert model.requests[0] == {"query": ["2+0=2"], "prompts": ["2+0="], "labels": ["2"]}


def test_a_changed_score_is_a_finding_with_old_and_new(model: RewardModel, pairs: Path) -> None:
    probe(pairs, "--url", model.url)
    model.reply = lambda body: (200, json.dumps({"rewards": [5.25 if body["labels"] == ["4"] else 5.0]}).encode())
    changed = found(pairs, "--url", model.url)
    assert changed["exit_code"] == 1
    assert changed["changes"] == [{"name": "c2", "old": 5.0, "new": 5.25}]
    code, out, _ = probe(pairs, "--url", model.url)
    assert code == 1
    assert "changed: c2: 5 before, 5.25 now" in out
    assert found(pairs, "--url", model.url, "--tolerance", 0.25)["exit_code"] == 0


def test_the_baseline_changes_only_when_asked(model: RewardModel, pairs: Path) -> None:
    probe(pairs, "--url", model.url)
    model.reply = lambda body: (200, b'{"rewards": [[7]]}')
    assert found(pairs, "--url", model.url)["exit_code"] == 1
    assert found(pairs, "--url", model.url, "--update")["exit_code"] == 1
    assert found(pairs, "--url", model.url)["exit_code"] == 0


def test_a_pair_that_was_edited_is_a_new_one(model: RewardModel, pairs: Path) -> None:
    probe(pairs, "--url", model.url)
    written(pairs, [*PAIRS[:4], {**PAIRS[4], "response": "longer than before"}])
    changed = found(pairs, "--url", model.url)
    assert (changed["exit_code"], changed["compared"]) == (0, 4)


@pytest.mark.parametrize(
    ("status", "answer", "why"),
    [
        (500, b"", "HTTP status 500"),
        (302, b"", "HTTP status 302"),
        (200, b"<html>", "no JSON"),
        (200, b"{}", 'without one number in "rewards"'),
        (200, b'{"rewards": [1, 2]}', "one number"),
        (200, b'{"rewards": [true]}', "one number"),
        (200, b'{"rewards": [null]}', "one number"),
        (200, b'{"error": "out of memory"}', "out of memory"),
        (200, b" " * (1 << 21), "more than 1 MiB"),
        (200, b"[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_score_is_told(model: RewardModel, pairs: Path, status: int, answer: bytes, why: str) -> None:
    model.reply = lambda body: (status, answer)
    failed = found(pairs, "--url", model.url)
    assert (failed["exit_code"], failed["failed"], failed["failed_ratio"]) == (2, 5, 1.0)
    assert why in failed["failures"]["c0"]
    assert not pairs.with_name("baseline.json").exists()


def test_a_service_that_fails_now_and_then_is_asked_again(model: RewardModel, pairs: Path) -> None:
    healthy = model.reply

    def flaky(body: dict[str, Any]) -> tuple[int, bytes]:
        return (503, b"") if len(model.requests) % 2 else healthy(body)

    model.reply = flaky
    once = found(pairs, "--url", model.url)
    assert (once["exit_code"], once["failed"], len(once["failures"])) == (1, 3, 3)
    twice = found(pairs, "--url", model.url, "--attempts", 2)
    assert (twice["exit_code"], twice["scored"], twice["failures"]) == (0, 5, {})
    assert twice["failed"] > 0


def test_nan_is_a_score_that_may_change(model: RewardModel, pairs: Path) -> None:
    probe(pairs, "--url", model.url)
    model.reply = lambda body: (200, b'{"rewards": [NaN]}')
    changed = found(pairs, "--url", model.url)
    assert changed["exit_code"] == 1
    assert changed["changes"][0] == {"name": "c0", "old": 5.0, "new": "nan"}
    probe(pairs, "--url", model.url, "--update")
    assert found(pairs, "--url", model.url)["exit_code"] == 0


def test_a_service_that_hangs_or_is_gone_ends_within_the_deadline(model: RewardModel, pairs: Path) -> None:
    model.reply = lambda body: (200 + 300 * model.release.wait(60), b"")
    begin = time.monotonic()
    assert "no answer within 0.2 s" in found(pairs, "--url", model.url, "--timeout", 0.2)["failures"]["c0"]
    assert time.monotonic() - begin < 30
    gone = found(pairs, "--url", "http://127.0.0.1:9/get_reward")
    assert gone["exit_code"] == 2


FUNCTION = """
import json, os, sys, time
print("printed at import")
class Tensor:
    def __init__(self, values): self.values = values
    def tolist(self): return self.values
def reward_func(queries, prompts, labels):
    print("printed", queries)
    {body}
    return {{"rewards": Tensor([float(q == p + l) for q, p, l in zip(queries, prompts, labels)]), "scores": None}}
"""


def function(tmp_path: Path, body: str = "pass") -> Path:
    path = tmp_path / "reward_func.py"
    path.write_text(FUNCTION.format(body=body))
    return path


def test_a_reward_function_is_called_as_openrlhf_calls_it(tmp_path: Path, pairs: Path) -> None:
    first = found(pairs, "--function", function(tmp_path))
    assert (first["exit_code"], first["scored"]) == (0, 5)
    scores = json.loads(pairs.with_name("baseline.json").read_text())["scores"]
    assert list(scores.values()) == [1.0] * 5
    function(tmp_path, "return [0.5]")
    changed = found(pairs, "--function", tmp_path / "reward_func.py")
    assert changed["exit_code"] == 1
    assert changed["changes"][0] == {"name": "c0", "old": 1.0, "new": 0.5}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ValueError('no such label')", "ValueError: no such label"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("os._exit(3)", "the function ended its process"),
        ("return {'rewards': None}", "TypeError"),
        ("return [1.0, 2.0]", "one number"),
        ("while True: time.sleep(1)", "no answer within 3 s; killed"),
    ],
)
def test_what_a_function_does_stays_in_its_process(tmp_path: Path, pairs: Path, body: str, why: str) -> None:
    written(pairs, PAIRS[:2])
    failed = found(pairs, "--function", function(tmp_path, body), "--timeout", 3)
    assert failed["exit_code"] == 2
    assert why in failed["failures"]["c1"]


def test_a_function_that_hangs_is_killed_with_what_it_started(tmp_path: Path, pairs: Path) -> None:
    written(pairs, PAIRS[:1])
    note = tmp_path / "pids"
    path = tmp_path / "reward_func.py"
    path.write_text(
        "import os, subprocess, time\n"
        "def reward_func(queries, prompts, labels):\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "    time.sleep(600)\n"
    )
    assert found(pairs, "--function", path, "--timeout", 5)["exit_code"] == 2
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    """A zombie that nobody has waited for yet is dead."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("\n", "no pairs"),
        ("{}\n", "line 1: needs query, or prompt and response"),
        ('{"query": 1}\n', "query must be a text"),
        ('{"query": "a"}\nbad\n', "line 2: not a JSON object"),
    ],
)
def test_pairs_that_are_none_are_bad_input(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(content)
    code, _, err = probe(tmp_path / "pairs.jsonl", "--url", "http://127.0.0.1:9/")
    assert code == 3
    assert why in err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "name one of --url and --function"),
        (["--url", "http://127.0.0.1:9/", "--function", "f.py"], "name one of"),
        (["--url", "ftp://127.0.0.1/"], "must be an http or https URL"),
        (["--function", "/nowhere.py"], "/nowhere.py: no such file"),
    ],
)
def test_wrong_use_is_bad_input(pairs: Path, options: list[str], why: str) -> None:
    code, _, err = probe(pairs, *options)
    assert code == 3
    assert why in err


@pytest.mark.parametrize(
    "content", ["nonsense", "[]", '{"version": 2, "scores": {}}', '{"version": 1, "scores": {"a": "b"}}']
)
def test_a_file_that_is_no_baseline_is_left_alone(model: RewardModel, pairs: Path, content: str) -> None:
    baseline = pairs.with_name("baseline.json")
    baseline.write_text(content)
    code, _, err = probe(pairs, "--url", model.url, "--update")
    assert code == 3
    assert "baseline" in err
    assert baseline.read_text() == content
    assert model.requests == []


def test_budget_and_comparison_are_exact() -> None:
    budget = budget_of([float(at) for at in range(1, 101)] + [None] * 25)
    assert (budget.p50_seconds, budget.p95_seconds, budget.p99_seconds, budget.failed_ratio) == (50, 95, 99, 0.2)
    assert budget_of([]).failed_ratio == 0
    pair = Pair("a", "q", "p", None)
    assert compare([pair], Baseline("", {pair.key: 1.0}), {pair.key: 1.0 + 1e-9}, 0.0) != []
    assert compare([pair], Baseline("", {pair.key: 1.0}), {}, 0.0) == []
