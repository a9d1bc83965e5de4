"""``fasedge doctor``: what is installed, what is missing, and the command that helps."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import typer
from rich.text import Text

import fasedge
from fasedge.backends import ENGINES
from fasedge.cli._detect import JsonOption
from fasedge.cli._output import Column, ExitCode, Rows, Session, session_of
from fasedge.cli._services import Services
from fasedge.faces import FINDERS

#: All of these install the same module, cv2, over one another.
_OPENCV_DISTRIBUTIONS = (
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
)
#: Shared library, Debian package, who needs it.
_LIBRARIES = (
    ("libGL.so.1", "libgl1", "OpenCV with windows"),
    ("libEGL.so.1", "libegl1", "MediaPipe"),
    ("libGLESv2.so.2", "libgles2", "MediaPipe"),
)
_IMPORTS = {
    "openvino": "import openvino; openvino.Core()",
    "litert": (
        "try:\n import ai_edge_litert.interpreter\nexcept ModuleNotFoundError:\n import tflite_runtime.interpreter\n"
    ),
    "onnxruntime": "import onnxruntime; onnxruntime.get_available_providers()",
}
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: ``engine``, ``finder``, ``library`` or ``package``.
        name: What was looked at.
        ok: Whether it works.
        detail: Version, or what is wrong.
        fix: The command that helps; empty if all is well.
    """

    group: str
    name: str
    ok: bool
    detail: str
    fix: str = ""


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show what is installed, what is missing, and the command that helps.

    Ends with 0 if at least one engine (runs the model) and one finder (finds the faces) work.
    """
    session = session_of(context)
    system = _system()
    checks = run_checks(session.services)
    usable = all(any(c.ok for c in checks if c.group == group) for group in ("engine", "finder"))
    session.exit_code = ExitCode.BONA_FIDE if usable else ExitCode.FAILED
    models = list(session.services.model_ids())
    if as_json:
        session.write_json(
            {"usable": usable, "system": system, "models": models, "checks": [asdict(check) for check in checks]}
        )
        return
    _show(session, system, checks, models)
    word = "fasedge can run here." if usable else "fasedge cannot run here yet: at least one engine and one finder."
    session.say(word, style="bold")


def _show(session: Session, system: dict[str, str], checks: list[Check], models: list[str]) -> None:
    for key, value in system.items():
        session.say(f"{key:<10} {value}")
    session.say(f"{'models':<10} {', '.join(models) or 'none: the installation is incomplete'}")
    session.say()
    rows = Rows(session, (Column("Kind", 8), Column("Name", 22), Column("Works", 6), Column("Detail")))
    for check in checks:
        works = Text("yes", style="bold bright_blue") if check.ok else Text("no", style="bold dark_orange")
        rows.add(check.group, check.name, works, check.detail)
    session.say()
    for fix in dict.fromkeys(check.fix for check in checks if check.fix):
        session.say(f"To add what is missing:  {fix}")


def run_checks(services: Services) -> list[Check]:
    """Look at engines, finders, system libraries and the OpenCV packages, in this order."""
    installed, missing = services.installed_engines(), services.missing_engines()
    checks = [_engine(services, name, installed, missing) for name in ENGINES]
    checks += [_finder(services, name) for name in FINDERS]
    if sys.platform.startswith("linux"):
        checks += [_library(*library) for library in _LIBRARIES]
    return [*checks, _opencv()]


def _engine(services: Services, name: str, installed: Mapping[str, str], missing: Mapping[str, str]) -> Check:
    fix = f"pip install 'fasedge[{name}]'"
    version = installed.get(name)
    if version is None:
        return Check("engine", name, False, missing.get(name, "not installed"), fix)
    problem = services.try_python(_IMPORTS[name])
    if problem:
        return Check("engine", name, False, f"{version} is installed but does not start: {problem}", fix)
    return Check("engine", name, True, version)


def _finder(services: Services, name: str) -> Check:
    problem = services.try_python(f"from fasedge.faces import open_finder; open_finder({name!r}).close()")
    if not problem:
        return Check("finder", name, True, "opens")
    fix = "pip install 'fasedge[mediapipe]'" if name == "mediapipe" else "pip install 'fasedge[runtime]'"
    return Check("finder", name, False, problem, fix)


def _library(name: str, package: str, user: str) -> Check:
    try:
        ctypes.CDLL(name)
    except OSError:
        return Check("library", name, False, f"not found; {user} may need it", f"sudo apt-get install {package}")
    return Check("library", name, True, f"for {user}")


def _opencv() -> Check:
    found = [name for name in _OPENCV_DISTRIBUTIONS if _version(name)]
    if len(found) == 1:
        return Check("package", found[0], True, _version(found[0]))
    if not found:
        return Check("package", "opencv", True, "not installed by pip")
    fix = f"pip uninstall -y {' '.join(found)} && pip install opencv-contrib-python"
    return Check("package", "opencv", False, f"{' and '.join(found)} overwrite each other's files", fix)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _system() -> dict[str, str]:
    import cv2
    import numpy as np

    model, flags = _cpu()
    useful = ", ".join(flag for flag in _FLAGS if flag in flags)
    return {
        "fasedge": fasedge.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cpu": f"{model}, {os.cpu_count()} threads" + (f" ({useful})" if useful else ""),
        "opencv": str(cv2.__version__),
        "numpy": str(np.__version__),
    }


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    entries = [line.partition(":") for line in lines]
    values = {key.strip().lower(): value.strip() for key, _, value in reversed(entries)}
    flags = values.get("flags") or values.get("features") or ""
    return values.get("model name") or platform.machine(), frozenset(flags.split())
