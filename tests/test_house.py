"""The house stands as it was designed: rooms import only the rooms below them, and the front door is what it says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gentrace

PACKAGE = Path(gentrace.__file__).parent
BELOW = {
    "errors": set(),
    "axes": set(),
    "stitch": {"errors", "axes"},
    "trace": {"errors", "axes", "stitch"},
    "capture": {"errors", "axes", "stitch", "trace"},
    "analysis": {"errors", "axes", "stitch", "trace"},
    "views": {"errors", "axes", "stitch", "trace", "analysis"},
    "explorer": {"errors", "axes", "stitch", "trace", "views"},
    "export": {"errors", "trace", "views"},
    "demo": {"errors"},
    "studies": {"errors", "axes", "stitch", "trace", "capture", "analysis", "demo"},
    "reports": {"errors", "axes", "stitch", "trace", "analysis", "views", "explorer", "studies"},
    "liveview": {"errors", "axes", "stitch", "trace", "capture", "views"},
    "cli": {
        "errors",
        "axes",
        "stitch",
        "trace",
        "capture",
        "analysis",
        "views",
        "explorer",
        "export",
        "demo",
        "studies",
        "reports",
        "liveview",
    },
    "__main__": {"cli"},
}


def rooms_imported(source: str) -> set[str]:
    """The rooms of gentrace that a module imports, anywhere in it; the front door counts as no room."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "gentrace" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("gentrace.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_walls(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    imported = rooms_imported(path.read_text(encoding="utf-8")) - {room}
    assert imported <= BELOW[room], f"{room} must not import {sorted(imported - BELOW[room])}"


def test_the_wall_test_can_fail() -> None:
    assert rooms_imported("def f():\n    from gentrace.views.replay import replay") == {"views"}
    assert rooms_imported("import gentrace.capture.run as r\nfrom gentrace import views") == {"capture", "views"}
    assert "capture" not in BELOW["views"]
    assert "views" not in BELOW["capture"]


def test_only_views_draws() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] != "views":
            modules = {
                node.names[0].name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)
            }
            assert not any(name.startswith("plotly") for name in modules), path


def test_files_are_short() -> None:
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.js"), *PACKAGE.rglob("*.css")]:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_the_front_door() -> None:
    assert gentrace.__all__ == sorted(gentrace.__all__)
    for name in gentrace.__all__:
        assert getattr(gentrace, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gentrace.nothing


def test_every_error_is_in_the_tree_and_in_its_drawing() -> None:
    from gentrace import errors

    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    for name, value in classes.items():
        assert issubclass(value, errors.GentraceError | Warning)
        assert name in (errors.__doc__ or "")
    assert str(errors.ViewError("drawing", "nothing", "give something")) == "drawing. nothing. give something."


def test_importing_is_light() -> None:
    code = "import sys; before = set(sys.modules); import gentrace; print(*sorted(set(sys.modules) - before))"
    added = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in added if name.split(".")[0] == "gentrace"}
    assert ours == {"gentrace", "gentrace.errors"}
    assert {name.split(".")[0] for name in added} <= {"gentrace", *sys.stdlib_module_names}
    # Small parts of the standard library, which together take a fraction of 50 ms.
    assert len(added) <= 60


def test_asking_for_help_is_light() -> None:
    code = """if True:
        import sys
        before = set(sys.modules)
        from gentrace.cli import main
        try:
            main(["--help"])
        finally:
            print("modules", *sorted(set(sys.modules) - before))
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "run" in said
    added = said.rpartition("modules ")[2].split()
    assert {name.split(".")[0] for name in added} <= {"gentrace", "click", *sys.stdlib_module_names}
    assert len(added) <= 150
