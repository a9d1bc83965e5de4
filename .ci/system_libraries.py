"""Names the system libraries that OpenCV and MediaPipe need and this machine lacks.

Standard library only, because it runs before any environment exists::

    python3 .ci/system_libraries.py                    # exit code 1 with instructions if one is missing
    python3 .ci/system_libraries.py --optional NAME    # what NAME needs is only worth a warning
    python3 .ci/system_libraries.py --list             # only the names of the Debian packages, for a package manager
"""

import argparse
import ctypes
import sys

#: Library -> (Debian and Ubuntu package, who needs it).
LIBRARIES = {
    "libGL.so.1": ("libgl1", "OpenCV"),
    "libgthread-2.0.so.0": ("libglib2.0-0", "OpenCV"),
    "libEGL.so.1": ("libegl1", "MediaPipe"),
    "libGLESv2.so.2": ("libgles2", "MediaPipe"),
}


def loads(library: str) -> bool:
    """Whether the dynamic linker finds the library; asking it is surer than searching folders."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def main() -> int:
    """Print what is missing; return the exit code."""
    if sys.platform != "linux":  # wheels for other systems bring their libraries along
        return 0
    parser = argparse.ArgumentParser(description="Names system libraries that are missing.")
    parser.add_argument("--list", action="store_true", help="print only the names of the Debian packages")
    parser.add_argument("--optional", metavar="NAME", action="append", default=[], help="who can be done without")
    options = parser.parse_args()
    missing = {library: entry for library, entry in LIBRARIES.items() if not loads(library)}
    packages = " ".join(sorted({package for package, _ in missing.values()}))
    if options.list:
        sys.stdout.write(packages + "\n")
        return 0
    for library, (package, user) in missing.items():
        kind = "warning" if user in options.optional else "error"
        sys.stderr.write(f"{kind}: system library {library} is missing ({user} needs it; Debian package {package})\n")
    if missing:
        sys.stderr.write(f"install with:  sudo apt-get install {packages}\n")
    return int(any(user not in options.optional for _, user in missing.values()))


if __name__ == "__main__":
    sys.exit(main())
