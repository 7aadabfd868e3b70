"""Whatever is in a file, no more than 256 MiB are resident while it is judged; large real models are judged all the
same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hostile_checkpoints as hostile
from hostile_checkpoints import global_, put, torch_file
from rlhfd_daemon.checkpoints import json_limits, legacy, safetensors
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.pickle_machine import MAX_OPCODES

LIMIT_BYTES = 256 << 20
READ = """
import json, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[2])
from rlhfd_daemon.checkpoints.inventory import take_inventory
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.report import layout_of, report
from support import peak_bytes
path = Path(sys.argv[1])
(found,) = layout_of(path).checkpoints
with Folder.open(path if path.is_dir() else path.parent) as folder:
    kinds = sorted({defect.kind for defect in take_inventory(folder, found).defects})
tensors = len(report(path, found).examined.tensors) if sys.argv[3:] else 0
print(json.dumps({"kinds": kinds, "tensors": tensors, "peak": peak_bytes()}))
"""
MANY = MAX_OPCODES - 10_000  # opcodes, with room for the others of a file
REBUILD = global_("torch._utils", "_rebuild_tensor_v2") + b"q\0(" + hostile.STORAGE
SAME = REBUILD + b"K\0K\4\x85K\1\x85\x89Ntq\1"  # the function and its arguments, to be used again and again
LEGACY = (
    b"\x80\x02\x8a\x0a" + legacy.MAGIC.to_bytes(10, "little") + b".\x80\x02M\xe9\x03."
    b"\x80\x02}(X\x0d\0\0\0little_endian\x88u."
)  # fmt: skip
ARCHIVED = [("a/data.pkl", b"\x80\x02}.")]


def read(path: Path, *judge: str) -> dict[str, Any]:
    command = [sys.executable, "-c", READ, str(path), json.dumps(sys.path), *judge]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["peak"] < LIMIT_BYTES, f"{found['peak'] >> 20} MiB"
    return found


def numbered(start: bytes, each: bytes, count: int) -> bytes:
    """``start``, then ``each`` and a number of four bytes, ``count`` times."""
    return start + b"".join(each + number.to_bytes(4, "little") for number in range(count))


PICKLES: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "dicts": (lambda: torch_file(b"}" * MANY), set()),
    "more dicts than are read": (lambda: torch_file(b"}" * 4_100_000), {"limit"}),
    "dicts of one": (lambda: torch_file(b"}N}s" * (MANY // 4)), set()),
    "lists in the memo": (lambda: torch_file(numbered(b"", b"]r", MANY // 2)), set()),
    "the memo alone": (lambda: torch_file(numbered(b"}", b"r", MANY)), set()),
    "calls of what was called": (lambda: torch_file(b"ca\nb\n" + b")R" * (MANY // 2)), {"foreign", "limit"}),
    "calls of a long name": (
        lambda: torch_file(b"c" + b"a" * 990 + b"\n" + b"b" * 990 + b"\nq\0" + b"h\0)R)R" * (MANY // 6)), {"foreign"},
    ),
    "one class": (lambda: torch_file(b"ca\nb\n" * MANY), {"foreign"}),
    "many classes": (
        lambda: torch_file(b"".join(b"c" + b"a" * 990 + b"\n%d\n" % number for number in range(9000))), {"limit"},
    ),
    "tensors as keys": (lambda: torch_file(hostile.entry_of_tensor() + b"q\0}(" + b"h\0N" * (MANY // 2) + b"u"), set()),
    "tensors of one call": (lambda: torch_file(SAME + b"]((" + b"h\0h\1R" * (MANY // 3) + b"lt"), {"limit", "shared"}),
    "one tensor in many places": (
        lambda: torch_file(hostile.entry_of_tensor() + b"q\0](" + b"h\0" * MANY + b"e"), {"limit", "shared"},
    ),
    "texts": (lambda: torch_file(b"X\2\0\0\0aa" * MANY), {"limit"}),
    "a long text with one wide letter": (
        lambda: torch_file(hostile.text("\U0001f600" + "a" * (30 << 20))), {"limit"},
    ),
    "integers": (lambda: torch_file(b"\x8a\x09aaaaaaaaa" * MANY), set()),
    "more than is read": (lambda: torch_file(hostile.text("a" * (33 << 20))), {"limit"}),
    "before 1.6": (lambda: LEGACY + b"\x80\x02" + b"}" * (legacy.TREE - 9) + b".\x80\x02].", set()),
    "before 1.6, larger": (lambda: LEGACY + b"\x80\x02" + b"}" * (legacy.TREE + 9) + b".\x80\x02].", {"limit"}),
    "entries": (
        lambda: hostile.archive([*ARCHIVED, *((f"a/data/{number}", b"") for number in range(65_000))]), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_takes_no_more_memory_than_any_other(name: str, tmp_path: Path) -> None:
    make, kinds = PICKLES[name]
    assert set(read(put(tmp_path, "x.pt", make()))["kinds"]) == kinds


def header(inside: bytes) -> bytes:
    return hostile.safetensors(b'{"__metadata__":{' + inside + b"}}")


def keys(count: int) -> bytes:
    return b",".join(b'"%d":""' % number for number in range(count))


VALUES = json_limits.MAX_VALUES - 1000
HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "keys": (lambda: header(keys(VALUES)), ""),
    "more keys than are read": (lambda: header(keys(2_000_000)), "limit"),
    "a key twice": (lambda: header(keys(VALUES) + b',"0":""'), "malformed"),
    "lists": (lambda: hostile.safetensors(b'{"a":[' + b"[]," * (VALUES // 2) + b"[]]}"), "malformed"),
    "more lists than are read": (lambda: hostile.safetensors(b'{"a":[' + b"[]," * 10_000_000 + b"]}"), "limit"),
    "a text with one wide letter": (lambda: header('"a":"\U0001f600'.encode() + b"a" * 16_000_000 + b'"'), ""),
    "a text longer than is read": (lambda: header(b'"a":"' + b"a" * 99_000_000 + b'"'), "limit"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_takes_no_more_memory_than_any_other(name: str, tmp_path: Path) -> None:
    make, kind = HEADERS[name]
    assert read(put(tmp_path, "x.safetensors", make()))["kinds"] == ([kind] if kind else [])


@pytest.mark.parametrize(
    "inside", [b'{"weight_map":{' + keys(1_500_000) + b"}}", b'{"a":"' + b"a" * (20 << 20) + b'"}']
)
def test_an_index_takes_no_more_memory_than_any_other(inside: bytes, tmp_path: Path) -> None:
    put(tmp_path, "config.json", b"{}")
    put(tmp_path, "model.safetensors", hostile.safetensors({}))
    put(tmp_path, "model.safetensors.index.json", inside)
    assert read(tmp_path)["kinds"] == ["limit"]


def weights(names: list[str]) -> bytes:
    """A shard with a small matrix of bfloat16 for each name."""
    places = enumerate(names)
    entries = {name: {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in places}
    return hostile.safetensors(entries, b"\x80\x3f\x00\x3f" * len(names))


@pytest.mark.timeout(600)
def test_a_model_of_as_many_tensors_and_shards_as_the_largest_open_ones_is_judged(tmp_path: Path) -> None:
    """DeepSeek-V3 has 91,991 tensors in 163 shards; a tenth of them without RLHFD_ALL_CHECKPOINTS, which takes 80 s."""
    count = 91_991 if os.environ.get("RLHFD_ALL_CHECKPOINTS") else 9_199
    names = [f"model.layers.{place // 1536}.mlp.experts.{place % 512}.proj_{place}.weight" for place in range(count)]
    shards = {f"model-{number + 1:05d}-of-00163.safetensors": names[number::163] for number in range(163)}
    for shard, held in shards.items():
        put(tmp_path, shard, weights(held))
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    put(tmp_path, "model.safetensors.index.json", json.dumps(index).encode())
    put(tmp_path, "config.json", b"{}")
    found = read(tmp_path, "judge")
    assert (found["kinds"], found["tensors"]) == ([], count)


def test_a_shard_of_sixty_thousand_tensors_is_read(tmp_path: Path) -> None:
    put(tmp_path, "x.safetensors", weights([f"model.layers.{number}.weight" for number in range(60_000)]))
    with Folder.open(tmp_path) as folder, folder.file("x.safetensors") as opened:
        found = safetensors.read(opened)
    assert (found.defects, len(found.tensors)) == ((), 60_000)
