"""`rlhfd reward FILE`: exit codes, columns by any name, bad input, and a page that needs no network."""

from __future__ import annotations

import gzip
import html.parser
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rewarding import SCORERS, Fault, changed, run
from rlhfd_daemon import reward_page
from rlhfd_daemon.cli import app
from rlhfd_daemon.rewards.analysis import Analysis
from rlhfd_daemon.rewards.sample import Sample

VERIFIER, MODEL = SCORERS[:2]


def reward(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["reward", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stdout, result.stderr


def rows(fault: Fault | None = None, count: int = 2560) -> list[dict[str, Any]]:
    """Half a run by default, so that the fault is what the file ends with."""
    samples = list(run(MODEL, 3, fault))[-count:]
    return [{key: value for key, value in asdict(one).items() if value is not None and key != "failed"}
            for one in samples]  # fmt: skip


def written(path: Path, objects: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    return path


def judged(path: Path, *options: object) -> tuple[int, dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    code, out, _ = reward(path, "--json", *options)
    found: dict[str, Any] = json.loads(out, parse_constant=refuse)
    assert found["exit_code"] == code
    return code, found


def test_a_healthy_file_is_clean(tmp_path: Path) -> None:
    code, found = judged(written(tmp_path / "a.jsonl", rows()))
    assert code == 0
    assert found["samples"] == 2560
    assert [one for one in found["issues"] if one["severity"] != "info"] == []
    assert {"reward", "windows", "relations", "advantages", "scorer", "calibration"} <= found.keys()
    assert found["advantages"][0]["estimator"] == "dr_grpo"


def test_warnings_and_critical_findings_are_exit_codes(tmp_path: Path) -> None:
    doubled = rows()
    for row in doubled[1280:]:
        row["reward"] *= 3
    assert judged(written(tmp_path / "w.jsonl", doubled))[0] == 1
    for row in doubled[1280:]:
        row["reward"] = 1.0
    code, found = judged(written(tmp_path / "c.jsonl", doubled))
    assert code == 2
    assert found["issues"][0]["severity"] == "critical"
    assert found["issues"][0]["remedy"]


def test_the_report_says_what_when_and_what_to_do(tmp_path: Path) -> None:
    constant = rows(changed(lambda r, s, g: 1.0), 5120)
    code, out, _ = reward(written(tmp_path / "c.jsonl", constant))
    assert code == 2
    assert "all 512 rewards are 1" in out
    assert "steps 20 to 39" in out
    assert "5120 samples read from" in out


VERL = [
    {
        "input": f"q{at // 8}",
        "output": f"word{at} " * (1 + at % 7),
        "score": float(at % 2),
        "step": at // 64,
        "acc": at % 2,
        "gts": "42",
    }
    for at in range(640)
]
TRL = [
    {
        "step": at // 64,
        "prompt": f"q{at // 8}",
        "completion": f"x{at} " * (1 + at % 5),
        "format_reward": float(at % 2),
        "accuracy_reward": 0.5,
        "advantage": at % 2 - 0.5,
    }
    for at in range(640)
]


@pytest.mark.parametrize(
    ("dump", "column"), [(VERL, "score"), (TRL, "accuracy_reward + format_reward")], ids=["verl", "trl"]
)
def test_dumps_of_other_trainers_are_understood(tmp_path: Path, dump: list[dict[str, Any]], column: str) -> None:
    code, found = judged(written(tmp_path / "d.jsonl", dump))
    assert code == 0
    assert found["columns"]["reward"] == column
    assert {"step", "prompt", "response"} <= found["columns"].keys()
    assert found["windows"][0]["first"] > 0


def test_a_column_can_be_named_and_unknown_ones_are_fine(tmp_path: Path) -> None:
    file = written(tmp_path / "n.jsonl", [{"mine": at % 3, "theirs": {"deep": [1]}, "x": None} for at in range(300)])
    assert judged(file, "--column", "reward=mine")[1]["columns"] == {"reward": "mine"}
    code, _, err = reward(file)
    assert code == 3
    assert "no line has a reward" in err
    assert "mine" in err


def test_bad_lines_are_counted_and_named_and_never_fatal(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    good = "".join(json.dumps(one) + "\n" for one in rows()[:1200])
    odd = [{"reward": "high"}, {"reward": None}, {"reward": [1, 2]}, {"reward": 10**400}, {"reward": True}]
    file.write_bytes(
        good.encode() + b'not json\n[1, 2]\n\xff\xfe\n{"unknown": 1}\n' + "".join(map(json.dumps, odd[:1])).encode()
        + b"\n" + b"".join(json.dumps(one).encode() + b"\n" for one in odd[1:]) + b'{"rew'
    )  # fmt: skip
    code, out, err = reward(file, "--json")
    found = json.loads(out)
    assert code == 1
    assert found["damaged"] == 4
    assert found["samples"] == 1205
    assert {row["name"]: row["value"] for row in found["reward"]}["missing"] == 5
    assert "line 1201: not a JSON object" in err
    assert "line 1204: none of its columns is known" in err
    assert reward(file, "--strict")[0] == 3


def test_nan_in_a_file_is_a_finding_and_no_error(tmp_path: Path) -> None:
    holed = rows()
    for row in holed[1500::10]:
        row["reward"] = row["advantage"] = row["length"] = float("nan")
    code, found = judged(written(tmp_path / "n.jsonl", holed))
    assert code == 2
    assert found["issues"][0]["kind"] == "missing"


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    plain = written(tmp_path / "a.jsonl", rows())
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert judged(packed)[1]["reward"] == judged(plain)[1]["reward"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--estimator", "ppo"], "there are group_norm"),
        (["--clip", "1", "-1"], "the first must be less"),
        (["--column", "reward"], "must be OURS=THEIRS"),
        (["--column", "rewards=x"], "no such column; there are step"),
        (["--window", "3"], "64"),
        (["--html", "/nowhere/page.html"], "--html /nowhere/page.html: cannot be written"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_use_is_bad_input_and_says_so(tmp_path: Path, options: list[str], text: str) -> None:
    code, _, err = reward(written(tmp_path / "a.jsonl", rows()[:200]), *options)
    assert code == 3
    assert text in err


@pytest.mark.parametrize("content", [None, b"", b"\0\1\2", b"{}\n"])
def test_a_file_that_is_none_is_bad_input(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.jsonl"
    if content is not None:
        file.write_bytes(content)
    code, _, err = reward(file)
    assert code == 3
    assert str(file) in err


def test_a_file_may_have_the_name_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "probe", rows()[:200])
    assert reward("./probe")[0] == 0
    assert reward("judge", "probe")[0] == 0


class Page(html.parser.HTMLParser):
    """The tags of a page, its visible text, its scripts, and where it would load something from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[tuple[str, str | None]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [pair for pair in attrs if pair[0] in ("src", "href", "action", "data")]
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_page_works_without_network_and_escapes_everything(tmp_path: Path) -> None:
    hostile = [{**row, "prompt": HOSTILE.replace(" ", "_")[:60], "step": row["step"] // 2} for row in rows()]
    for row in hostile:
        row["reward"] = 1.0  # one dead prompt, whose name is shown
    file, out = written(tmp_path / "<b>a&b.jsonl", hostile), tmp_path / "page.html"
    assert reward(file, "--html", out)[0] == 2
    page = Page(out.read_text())
    assert page.loads == []
    assert "img" not in page.tags
    assert "b" in page.tags  # ours, of the issues
    assert len(page.scripts) == 3
    assert "<b>a&b.jsonl" in page.text
    assert HOSTILE.replace(" ", "_")[:60] in page.text
    assert "all 512 rewards are 1" in page.text
    assert len(page.scripts[0]) > 1_000_000
    assert [one["id"] for one in json.loads(page.scripts[1])][:2] == ["course", "spread"]


def test_no_text_of_a_chart_can_end_its_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_page, "charts", lambda analysis: [{"id": "x", "data": [HOSTILE], "layout": {}}])
    page = Page(reward_page.page(Analysis(), "a.jsonl", 0))
    assert len(page.scripts) == 3
    assert json.loads(page.scripts[1])[0]["data"] == [HOSTILE]
    assert "img" not in page.tags


def test_the_page_draws_all_its_charts(tmp_path: Path) -> None:
    analysis = Analysis()
    for sample in run(MODEL, 4):
        kl = 0.01 * ((sample.step or 0) + 1) ** 2
        analysis.add(Sample(**{**asdict(sample), "kl": kl, "eval_reward": kl**0.5}))
    analysis.finish()
    drawn = reward_page.charts(analysis)
    assert [one["id"] for one in drawn] == ["course", "spread", "others", "reliability", "gold"]
    json.dumps(drawn, allow_nan=False)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_pages_own_script_draws_into_elements_that_are_there(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    reward(written(tmp_path / "a.jsonl", rows()), "--html", out)
    page = Page(out.read_text())
    script = tmp_path / "page.js"
    script.write_text(
        "const drawn = []; const Plotly = {newPlot: (id, data) => drawn.push([id, data.length])};\n"
        "const matchMedia = () => ({matches: false});\n"
        f"const document = {{getElementById: () => ({{textContent: {json.dumps(page.scripts[1])}}})}};\n"
        f"{page.scripts[2]}\nconsole.log(JSON.stringify(drawn));\n"
    )
    said = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60, check=True)
    drawn = json.loads(said.stdout)
    assert [one for one, _ in drawn] == ["course", "spread", "others", "reliability"]
    text = out.read_text()
    assert all(count > 0 and f'id="{one}"' in text for one, count in drawn)
