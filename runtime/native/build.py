"""Compiles the native modules: `python build.py DIRECTORY` puts them into the package that lies there.

Needs a C++20 compiler (CXX, else g++) and Python's headers, and nothing of Python but its standard library. The compiler's
own library is linked in, so that the result needs no more than the C library's version.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
MODULES = {
    "fastpath/module.cpp": "modelmill/serve/_fastpath",
    "kernels/module.cpp": "modelmill/kernels/_kernels",
    "sparse/module.cpp": "modelmill/kernels/_sparse",
}
"""Source, and the module's place in the package."""
FLAGS = (
    *("-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-static-libstdc++", "-static-libgcc"),
    # No product and sum become one operation unless the source says so: every instruction set gives the same bits.
    # Sums stay in the order of the source: other orders need more registers than there are.
    *("-ffp-contract=off", "-fno-tree-reassoc", "-pthread"),
    *("-Wall", "-Wextra", "-Werror", "-Wl,--strip-debug"),
)


def build(directory: Path) -> list[Path]:
    """Raises RuntimeError where it cannot compile, with what is missing or wrong."""
    compiler = os.environ.get("CXX", "g++")
    headers = Path(sysconfig.get_path("include"))
    if shutil.which(compiler) is None:
        raise RuntimeError(f"{compiler} is not there: install g++, or name a C++20 compiler in CXX")
    if not (headers / "Python.h").exists():
        raise RuntimeError(f"{headers}/Python.h is not there: install this Python's headers (Debian: python3-dev)")
    made = []
    for source, module in MODULES.items():
        target = directory / (module + sysconfig.get_config_var("EXT_SUFFIX"))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it first: a process may have the old one in use.
        fresh = target.with_suffix(".new")
        command = [compiler, *FLAGS, f"-I{headers}", str(HERE / source), "-o", str(fresh)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr}")
        fresh.replace(target)
        made.append(target)
    return made


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for path in build(Path(sys.argv[1])):
        print(path)
