"""An environment in which the peers and gentrace run side by side, with exact versions."""

import subprocess
import sys
import venv
from pathlib import Path

PINS = ("torch==2.13.0", "transformers==5.23.0", "transformer-lens==4.3.0", "nnsight==0.8.1")
ROOT = Path(__file__).resolve().parents[2]


def empty(folder: Path) -> Path:
    """Make an environment with nothing but pip.

    Args:
        folder: A folder that does not exist yet.

    Returns:
        Its Python.
    """
    if folder.exists():
        raise SystemExit(f"making an environment: {folder} exists; give a folder that does not")
    venv.create(folder, with_pip=True)
    return python_of(folder)


def python_of(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def install(python: Path, *what: str) -> None:
    """Have an environment's pip install this, at the versions that the tests run with.

    Args:
        python: Its Python.
        *what: Requirements, and options of ``pip install``.
    """
    command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "scripts/constraints.txt")]
    subprocess.run([*command, *what], check=True)


def made(folder: Path, *what: str) -> Path:
    """Make an environment, and `install` this into it.

    Args:
        folder: A folder that does not exist yet.
        *what: See there.

    Returns:
        Its Python.
    """
    python = empty(folder)
    install(python, *what)
    return python


def make(folder: Path) -> Path:
    """Make the peers' environment, gentrace from this checkout included."""
    return made(folder, *PINS, "--editable", str(ROOT))
