"""Many generations: a specification, a runner that loses nothing, and results that are read like a table.

`load_spec` reads a study from a TOML or YAML file, `run_study` does it or goes on with it, `open_study` reads what came
out, `verify_study` computes some of it again. An `Engine` decides who does the planned batches: this process, several
on this machine (`PoolEngine`), or those of a cluster (`RayEngine`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gentrace.studies.cluster import RayEngine
    from gentrace.studies.engine import Engine, LocalEngine, Task
    from gentrace.studies.errors import HopelessRun, LockedError, SpecError
    from gentrace.studies.pool import PoolEngine
    from gentrace.studies.reading import Study, open_study
    from gentrace.studies.run import Summary, run_study
    from gentrace.studies.spec import Spec, load_spec, parse_spec
    from gentrace.studies.verify import audit_batches, verify_study
    from gentrace.studies.work import Staged

__all__ = [
    "Engine",
    "HopelessRun",
    "LocalEngine",
    "LockedError",
    "PoolEngine",
    "RayEngine",
    "Spec",
    "SpecError",
    "Staged",
    "Study",
    "Summary",
    "Task",
    "audit_batches",
    "load_spec",
    "open_study",
    "parse_spec",
    "run_study",
    "verify_study",
]

_HOMES = {
    "Engine": "engine",
    "HopelessRun": "errors",
    "LocalEngine": "engine",
    "LockedError": "errors",
    "PoolEngine": "pool",
    "RayEngine": "cluster",
    "Spec": "spec",
    "SpecError": "errors",
    "Staged": "work",
    "Study": "reading",
    "Summary": "run",
    "Task": "engine",
    "audit_batches": "verify",
    "load_spec": "spec",
    "open_study": "reading",
    "parse_spec": "spec",
    "run_study": "run",
    "verify_study": "verify",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that the command line can name its commands without pandas and torch."""
    if name in _HOMES:
        return getattr(import_module(f"gentrace.studies.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gentrace.studies' has no attribute {name!r}")
