"""`rlhfd checkpoint` on exports with one planted defect each: found, named, scored, and the exit code says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from exports import FIRST, NAMES, SECOND, Weights, export, weights
from rlhfd_daemon.cli import app


def judged(path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["checkpoint", str(path), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout.splitlines()[-1])


def kinds(said: Mapping[str, Any]) -> set[str]:
    return {one["kind"] for one in said["issues"]}


def test_a_healthy_export_scores_one_and_its_numbers_are_numpy_s(tmp_path: Path) -> None:
    tensors = weights()
    code, said = judged(export(tmp_path, tensors))
    assert (code, said["score"], said["issues"], said["step"]) == (0, 1.0, [], 10)
    for name, one in tensors.items():
        found = said["tensors"][f"weight/{name}"]
        assert found["mean"] == pytest.approx(float(one.astype(np.float64).mean()), rel=1e-12, abs=1e-15)
        assert found["norm"] == pytest.approx(float(np.linalg.norm(one.astype(np.float64))), rel=1e-12)
        assert (found["min"], found["max"]) == (float(one.min()), float(one.max()))
    assert said["groups"]["weight/mlp"]["elements"] == 64 * 64


def test_a_healthy_successor_is_healthy_too(tmp_path: Path) -> None:
    before, after = export(tmp_path, weights(), 10), export(tmp_path, weights(moved=0.01), 20)
    code, said = judged(after, "--compare", str(before))
    assert (code, said["score"]) == (0, 1.0)
    assert said["comparisons"]["weight/lm_head.weight"]["relative_update"] == pytest.approx(0.01, rel=0.1)


def with_nan(found: Weights) -> None:
    found["lm_head.weight"][3, 7] = np.nan


def with_infinity(found: Weights) -> None:
    found["model.embed_tokens.weight"][0, 0] = -np.inf


def zeroed(found: Weights) -> None:
    found["model.layers.0.mlp.up_proj.weight"][:] = 0


@pytest.mark.parametrize(
    ("plant", "kind", "subject"),
    [
        (with_nan, "non_finite", "lm_head.weight"),
        (with_infinity, "non_finite", "model.embed_tokens.weight"),
        (zeroed, "constant", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_wrong_values_are_found_without_anything_to_compare_with(
    plant: Callable[[Weights], None], kind: str, subject: str, tmp_path: Path
) -> None:
    found = weights()
    plant(found)
    code, said = judged(export(tmp_path, found))
    assert (code, kinds(said)) == (2, {kind})
    assert [one["subject"] for one in said["issues"]] == [subject]
    assert said["score"] < 0.8


def cut(path: Path) -> None:
    whole = (path / SECOND).read_bytes()
    (path / SECOND).write_bytes(whole[: len(whole) - 100])


def lost(path: Path) -> None:
    (path / SECOND).unlink()


def swapped(path: Path) -> None:
    first, second = (path / FIRST).read_bytes(), (path / SECOND).read_bytes()
    (path / FIRST).write_bytes(second)
    (path / SECOND).write_bytes(first)


def misnamed(path: Path) -> None:
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = FIRST
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("break_it", [cut, lost, swapped, misnamed])
def test_broken_files_are_found_and_named(break_it: Callable[[Path], None], tmp_path: Path) -> None:
    path = export(tmp_path, weights())
    break_it(path)
    code, said = judged(path)
    assert code == 2
    assert kinds(said) == {"unreadable"}
    assert any(name in one["subject"] for one in said["issues"] for name in (FIRST, SECOND))
    assert said["score"] <= 0.3


def test_one_nan_among_a_thousand_million_values_is_found(tmp_path: Path) -> None:
    block = np.random.default_rng(1).normal(0, 0.02, 1 << 24).astype(np.float32).view(np.uint32) >> 16
    values, blocks = block.astype(np.uint16), 60
    size = blocks * values.nbytes
    text = json.dumps({"lm_head.weight": {"dtype": "BF16", "shape": [blocks, 1 << 24], "data_offsets": [0, size]}})
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text.encode())
        for place in range(blocks):
            one = values.copy()
            if place == 41:
                one[123_456] = 0x7FC0
            file.write(one.tobytes())
    code, said = judged(path)
    path.unlink()  # 2 GB, which pytest would keep
    assert (code, kinds(said), said["tensors"]["weight/lm_head.weight"]["nan"]) == (2, {"non_finite"}, 1)
    assert blocks << 24 > 1e9
    assert said["score"] == pytest.approx(0.4)


def test_what_is_not_read_is_no_health(tmp_path: Path) -> None:
    path = export(tmp_path, weights())
    content = (path / FIRST).read_bytes()
    (path / FIRST).write_bytes(content.replace(b'"F32"', b'"U32"', 1))  # a type without statistics
    code, said = judged(path)
    (issue,) = said["issues"]
    assert (code, issue["kind"]) == (1, "unread")
    assert 0.7 < said["score"] < 0.95
    assert (NAMES[0] in issue["subject"], "U32" in issue["summary"]) == (True, True)


def frozen(found: Weights) -> None:
    found["model.layers.1.self_attn.q_proj.weight"] = weights()["model.layers.1.self_attn.q_proj.weight"]


def exploded(found: Weights) -> None:
    found["lm_head.weight"] *= 20


def of_another_run(found: Weights) -> None:
    for name in NAMES[3:]:
        found[name] = weights(seed=5)[name]


def constant(found: Weights) -> None:
    found["model.layers.0.input_layernorm.weight"][:] = 0


def renamed(found: Weights) -> None:
    found["lm_head.other"] = found.pop("lm_head.weight")


def reshaped(found: Weights) -> None:
    found["lm_head.weight"] = found["lm_head.weight"].reshape(32, 128)


@pytest.mark.parametrize(
    ("plant", "kind", "subjects"),
    [
        (frozen, "frozen", {"model.layers.1.self_attn.q_proj.weight"}),
        (exploded, "moved", {"lm_head.weight"}),
        (of_another_run, "moved", {"model.layers.1.self_attn.q_proj.weight", "lm_head.weight"}),
        (constant, "constant", {"model.layers.0.input_layernorm.weight"}),
        (renamed, "structure", {"lm_head.other", "lm_head.weight"}),
        (reshaped, "structure", {"lm_head.weight"}),
    ],
)
def test_what_only_shows_beside_the_checkpoint_before(
    plant: Callable[[Weights], None], kind: str, subjects: set[str], tmp_path: Path
) -> None:
    found = weights(moved=0.01)
    plant(found)
    before, after = export(tmp_path, weights(), 10), export(tmp_path, found, 20)
    code, said = judged(after, "--compare", str(before))
    assert code == (2 if kinds(said) - {"moved"} else 1)
    assert {one["subject"] for one in said["issues"] if one["kind"] == kind} == subjects
    assert said["score"] < 0.95


def test_what_begins_at_zero_may_move_as_far_as_it_is_large(tmp_path: Path) -> None:
    before, after = weights(), weights(moved=0.01)
    for found, size in ((before, 1e-4), (after, 3e-4)):
        found["model.layers.0.mlp.up_proj.lora_B.weight"] = (np.full((64, 4), size) * np.arange(4)).astype(np.float32)
        found["model.layers.0.self_attn.q_proj.bias"] = np.arange(64, dtype=np.float32) * np.float32(size)
    paths = export(tmp_path, before, 10), export(tmp_path, after, 20)
    code, said = judged(paths[1], "--compare", str(paths[0]))
    assert (code, said["issues"]) == (0, [])


def test_a_folder_of_several_compares_each_with_the_one_before(tmp_path: Path) -> None:
    for number, moved in enumerate((0.0, 0.01, 0.02)):
        export(tmp_path, weights(moved=moved), 10 * (number + 1))
    done = CliRunner().invoke(app, ["checkpoint", str(tmp_path), "--json"])
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["step"] for one in said] == [10, 20, 30]
    assert [one["compared_with"] and Path(one["compared_with"]).name for one in said] == [
        None, "global_step10_hf", "global_step20_hf",
    ]  # fmt: skip
    assert done.exit_code == 0


def test_people_read_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    found = weights()
    with_nan(found)
    done = CliRunner().invoke(app, ["checkpoint", str(export(tmp_path, found))])
    assert done.exit_code == 2
    for part in (
        "health 0.4",
        "checkpoint_non_finite: 1",
        "lm_head.weight: 1 NaN",
        "Do not resume",
        "weight head fp32",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is nothing"), ("folder", "no checkpoint in it"), ("file", "exit")]
)
def test_bad_input_has_its_own_exit_code(content: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    if content == "folder":
        path.mkdir()
    if content == "file":
        path.with_suffix(".safetensors").write_bytes(b"garbage")
        done = CliRunner().invoke(app, ["checkpoint", str(path.with_suffix(".safetensors"))])
        assert done.exit_code == 2, "a file that is no checkpoint is a broken one"
        return
    done = CliRunner().invoke(app, ["checkpoint", str(path)])
    assert done.exit_code == 3
    assert said in done.stderr
