"""Files of torch.save: recorded real ones give torch's own bytes, hostile ones a defect, in bounded time."""

from __future__ import annotations

import ast
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile_checkpoints as hostile
from hostile_checkpoints import global_, put, text
from rlhfd_daemon.checkpoints import safetensors, torchzip
from rlhfd_daemon.checkpoints.contents import Contents
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks

RECORDED = Path(__file__).parents[2] / "fixtures" / "checkpoints"
REAL = sorted(path.name for path in RECORDED.iterdir() if path.suffix in (".pt", ".safetensors"))


def look(folder: Path, name: str) -> tuple[Contents, dict[str, dict[str, object]]]:
    """The contents, and each tensor as make_checkpoints.py describes it."""
    reader = safetensors if name.endswith(".safetensors") else torchzip
    with Folder.open(folder) as opened, opened.file(name) as file:
        found = reader.read(file)
        return found, {
            one.name: {
                "dtype": one.dtype,
                "shape": list(one.shape),
                "hex": b"".join(map(bytes, blocks(one, file, 16))).hex(),
            }
            for one in found.tensors
        }


def read(folder: Path, content: bytes) -> Contents:
    return look(put(folder, "x.pt", content).parent, "x.pt")[0]


def kinds(found: Contents) -> list[str]:
    return [one.kind for one in found.defects]


@pytest.mark.parametrize("name", REAL)
def test_every_tensor_of_a_real_file_has_the_bytes_that_torch_says(name: str) -> None:
    found, described = look(RECORDED, name)
    assert described == json.loads((RECORDED / f"{name}.json").read_text("utf-8"))
    assert set(kinds(found)) <= {"shared"}


def test_the_tree_of_a_real_file_is_plain_data() -> None:
    tree = look(RECORDED, "nested.pt")[0].metadata
    assert isinstance(tree, dict)
    assert (tree["int"], tree["text"], tree["none"], tree["list"][1]["deeper"][1]) == (5, "ä", None, 7)


def test_tensors_that_share_bytes_are_noted() -> None:
    (shared,) = look(RECORDED, "tied.pt")[0].defects
    assert (shared.kind, shared.evidence) == ("shared", {"pairs": [("one", "two"), ("one", "part")]})


@pytest.mark.parametrize("name", ["nested.pt", "legacy.pt"])
def test_a_real_file_that_is_cut_anywhere_has_a_defect_and_no_tensors(tmp_path: Path, name: str) -> None:
    whole = (RECORDED / name).read_bytes()
    for end in [*range(0, len(whole), 101), *range(len(whole) - 40, len(whole))]:
        found = read(tmp_path, whole[:end])
        assert set(kinds(found)) & {"truncated", "malformed", "limit"}, end
        assert len(found.defects) == 1
        assert found.tensors == ()


GOOD = hostile.entry_of_tensor()


def test_a_written_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, hostile.torch_file(b"}" + text("w") + GOOD + b"s", {"0": bytes(range(16))}))
    assert found.defects == ()
    ((name, tensor),) = look(tmp_path, "x.pt")[1].items()
    assert (name, tensor["hex"]) == ("w", bytes(range(16)).hex())


PICKLE = b"\x80\x02}" + text("w") + GOOD + b"s."
ENTRIES = [("a/data.pkl", PICKLE), ("a/data/0", bytes(16))]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("truncated", b""),
        ("malformed", b"hello"),
        ("malformed", bytes(100)),
        ("truncated", b"PK\3\4" + bytes(1000)),
        ("unsupported", hostile.archive(ENTRIES, method=8)),
        ("unsupported", hostile.archive(ENTRIES, flags=1)),
        ("unsafe", hostile.archive(ENTRIES, method=8, size=(1 << 32) - 2)),
        ("unsafe", hostile.archive(ENTRIES, method=93, size=1 << 30)),
        ("malformed", hostile.archive(ENTRIES, size=(1 << 32) - 1)),
        ("malformed", hostile.archive([*ENTRIES, ENTRIES[0]])),
        ("malformed", hostile.archive([*ENTRIES, ("b/data.pkl", PICKLE)])),
        ("malformed", hostile.archive([("a/b/data.pkl", PICKLE)])),
        ("malformed", hostile.archive([("a/other", b"")])),
        ("malformed", hostile.archive(ENTRIES, header=0)),
        ("malformed", hostile.archive(ENTRIES, header=1 << 31)),
        ("malformed", hostile.archive(ENTRIES, count=1)),
        ("malformed", hostile.archive(ENTRIES, count=3)),
        ("malformed", hostile.archive(ENTRIES) + b"more"),
        ("malformed", hostile.archive([("a/data.pkl", PICKLE + b"x")])),
        ("malformed", hostile.archive([("a/data.pkl", b"")])),
        ("unsupported", hostile.archive([*ENTRIES, ("a/byteorder", b"big")])),
        ("unsupported", hostile.archive([*ENTRIES, ("a/constants.pkl", b"")])),
        ("unsupported", b"\x80\x02}."),
        ("unsafe", b"\x80\x02" + global_("os", "system") + text("touch x") + b"\x85R."),
        ("truncated", hostile.archive([("a/data.pkl", PICKLE), ("a/data/0", bytes(15))])),
        ("missing", hostile.archive([("a/data.pkl", PICKLE)])),
        ("limit", hostile.archive([("a/data.pkl", b"\x80\x02" + b"]" * 100 + b"a" * 99 + b".")])),
    ],
)  # fmt: skip
def test_what_torch_never_writes_is_refused(tmp_path: Path, kind: str, content: bytes) -> None:
    if kind == "limit":
        content = hostile.torch_file(b"]" * 100 + GOOD + b"a" * 100)
    found = read(tmp_path, content)
    assert kinds(found) == [kind]
    assert found.tensors == ()


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """The bomb of https://www.bamsoftware.com/hacks/zipbomb/: many entries, one body."""
    content = bytearray(hostile.archive([("a/data.pkl", PICKLE), ("a/data/0", bytes(64)), ("a/data/1", bytes(4))]))
    inner = content.index(b"a/data/0") + len(b"a/data/0")
    second = content.index(b"PK\3\4", content.index(b"a/data/1") - 40)
    local = content[second : second + 30] + b"a/data/1"
    content[inner : inner + len(local)] = local
    directory = content.rindex(b"PK\1\2")
    content[directory + 42 : directory + 46] = struct.pack("<I", inner)
    assert kinds(read(tmp_path, bytes(content))) == ["unsafe"]


def test_zip64_is_read(tmp_path: Path) -> None:
    plain = hostile.archive(ENTRIES)
    end = plain.rindex(b"PK\5\6")
    _, _, _, count, _, length, offset, _ = struct.unpack("<4s4H2LH", plain[end:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    short = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    whole = plain[:end] + record + locator + short
    found = read(tmp_path, whole)
    assert (found.defects, [one.name for one in found.tensors]) == ((), ["w"])
    assert kinds(read(tmp_path, plain[:end] + short)) == ["malformed"]
    wrong = struct.pack("<4sLQL", b"PK\6\7", 0, 1 << 40, 1)
    assert kinds(read(tmp_path, plain[:end] + record + wrong + short)) == ["malformed"]


def test_a_wrong_checksum_of_the_pickle_is_said_and_it_is_read(tmp_path: Path) -> None:
    content = bytearray(hostile.archive(ENTRIES))
    at = content.rindex(struct.pack("<I", zlib.crc32(PICKLE)))
    content[at] ^= 1
    found = read(tmp_path, bytes(content))
    assert (kinds(found), len(found.tensors)) == (["inconsistent"], 1)


def test_names_that_would_fill_the_memory_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchzip, "MAX_NAMES", 1 << 20)
    many = b"](" + (GOOD + b"q\x00") + b"h\x00" * 100_000 + b"e"
    found = read(tmp_path, hostile.torch_file(b"}" + text("x" * 4000) + many + b"s"))
    assert kinds(found) == ["limit", "shared"]
    assert len(found.tensors) < 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_bytes_gives_defects_or_tensors_within_the_file(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(hostile.archive(ENTRIES))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    look(put(tmp_path, "x.pt", bytes(content)).parent, "x.pt")


AUDITED = """
import os, sys
sys.path[:0] = [path for path in sys.argv[2].split(os.pathsep) if path]
from rlhfd_daemon.checkpoints import deepspeed, safetensors, torchzip
from rlhfd_daemon.checkpoints.defect import Refused, Vanished
from rlhfd_daemon.checkpoints.opening import Folder
from rlhfd_daemon.checkpoints.reading import blocks
from support import peak_bytes

FORBIDDEN = ("exec", "import", "compile", "os.", "subprocess.", "socket.", "pickle.", "marshal.", "ctypes.", "code.")
seen = []
def audit(event, arguments):
    if event.startswith(FORBIDDEN) and event not in ("os.scandir", "os.listdir"):
        seen.append((event, repr(arguments)[:200]))
    elif event == "open" and os.path.basename(str(arguments[0])) not in {*names, "status"}:
        seen.append((event, repr(arguments)[:200]))

folder = Folder.open(sys.argv[1])
names = set(folder.names())
defects = []
sys.addaudithook(audit)
for name in sorted(names):
    try:
        with folder.file(name) as opened:
            found = (safetensors if name.endswith(".safetensors") else torchzip).read(opened)
            defects += [(name, one.kind) for one in found.defects]
            for tensor in found.tensors:
                for block in blocks(tensor, opened):
                    pass
    except Refused as refused:
        defects.append((name, refused.defect.kind))
deepspeed.read(folder)
print(repr((seen, defects, peak_bytes())))
"""


def test_promise_E1_whatever_is_in_the_files_nothing_is_executed_imported_or_opened_outside(tmp_path: Path) -> None:
    marker = tmp_path / "PWNED"
    folder = tmp_path / "files"
    folder.mkdir()
    hostile_names = [
        ("os", "system"), ("posix", "system"), ("builtins", "exec"), ("builtins", "eval"), ("subprocess", "Popen"),
        ("builtins", "__import__"), ("torch", "load"), ("antigravity", "fly"), ("webbrowser", "open"),
    ]  # fmt: skip
    command = text(f"touch {marker}")
    for number, (module, name) in enumerate(hostile_names):
        named = global_(module, name)
        put(folder, f"reduce{number}.pt", hostile.torch_file(named + command + b"\x85R"))
        put(folder, f"newobj{number}.pt", hostile.torch_file(named + command + b"\x85\x81"))
        put(folder, f"inst{number}.pt", hostile.torch_file(b"(" + command + f"i{module}\n{name}\n".encode()))
        put(folder, f"obj{number}.pt", hostile.torch_file(b"(" + named + command + b"o"))
        put(folder, f"build{number}.pt", hostile.torch_file(named + command + b"b"))
        put(folder, f"bare{number}.pt", b"\x80\x02" + named + command + b"\x85R.")
    put(folder, "mp_rank_00_model_states.pt", hostile.torch_file(global_("os", "system") + command + b"\x85R"))
    put(folder, "extension.pt", hostile.torch_file(b"\x82\x05" + command + b"\x85R"))
    put(folder, "bomb.pt", hostile.archive(ENTRIES, method=8, size=(1 << 32) - 2))
    put(folder, "many.pt", hostile.torch_file(b"}" * 4_100_000))
    put(folder, "header.safetensors", hostile.safetensors(b'{"a":[' + b"[]," * 10_000_000 + b"]}"))
    os.symlink("/etc/passwd", folder / "link.pt")
    os.mkfifo(folder / "fifo.pt")
    with (folder / "sparse.pt").open("wb") as file:
        file.truncate(1 << 40)
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(folder), os.pathsep.join(sys.path)],
        capture_output=True, text=True, timeout=115, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    seen, defects, peak = ast.literal_eval(done.stdout)
    assert seen == []
    assert not marker.exists()
    said = dict(defects)
    assert {name: said[name] for name in ("link.pt", "fifo.pt", "sparse.pt", "bomb.pt", "many.pt")} == {
        "link.pt": "special", "fifo.pt": "special", "sparse.pt": "limit", "bomb.pt": "unsafe", "many.pt": "limit",
    }  # fmt: skip
    named_unsafe = [number for number, (module, _) in enumerate(hostile_names) if module != "antigravity"]
    ways = ("reduce", "newobj", "inst", "obj", "build", "bare")
    assert {said[f"{how}{number}.pt"] for how in ways for number in named_unsafe} == {"unsafe"}
    assert peak < 256 << 20, f"{peak >> 20} MiB"
