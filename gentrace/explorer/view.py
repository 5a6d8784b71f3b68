"""What ``gentrace view`` does: one page if that holds everything, else a server; stopped at once by Ctrl-C.

Nothing heavy is imported here. Until the server runs, and while it does, Ctrl-C is left to the operating system: the
process ends there and then, also in the middle of an import or a long computation. There is nothing to tidy up.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gentrace.errors import ViewError

if TYPE_CHECKING:
    from gentrace.explorer.library import Library

PAGE = Path("gentrace.html")
"""Where a page goes if nothing else is said."""


def view(
    paths: tuple[Path, ...],
    *,
    out: Path | None,
    layers: list[int] | None,
    served: bool,
    say: Callable[[str], object],
    browse: Callable[[str], object] | None,
) -> None:
    """Show saved traces.

    Args:
        paths: Trace files, or one folder.
        out: Where to write a page; None for ``gentrace.html``, or for a server where a page would not hold everything.
        layers: Layer numbers; None for all recorded.
        served: Whether to serve in any case.
        say: Gets the page's path or address.
        browse: Opens an address in a browser; None for not at all.

    Raises:
        ViewError: If the arguments do not go together, or the traces have no such layer.
    """
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None and len(paths) > 1:
        raise ViewError("opening traces", f"{folder} is a folder, and not alone", "give one folder, or files")
    if out is not None and (served or folder is not None):
        raise ViewError("writing a page", "--out is a page of its own", "leave out --out, or --serve and the folder")
    with stopping_at_once():
        from gentrace.explorer.library import Library, name_files

        files = {} if folder is not None else name_files(paths)
        if out is None and (served or folder is not None or not _one_page(files, layers)):
            _serve(Library(folder, files), layers, say, browse)
            return
    import gentrace

    gentrace.explore({name: gentrace.load(path) for name, path in files.items()}, out or PAGE, layers=layers)
    written = (out or PAGE).resolve()
    say(str(written))
    if browse is not None:
        browse(written.as_uri())


def _one_page(files: dict[str, Path], layers: list[int] | None) -> bool:
    from gentrace.explorer.plan import one_page
    from gentrace.trace.file import load

    return one_page({name: load(path) for name, path in files.items()}, layers)


def _serve(
    library: "Library", layers: list[int] | None, say: Callable[[str], object], browse: Callable[[str], object] | None
) -> None:
    from gentrace.explorer.serve import Desk, serve

    def said(address: str) -> None:
        say(address)
        if browse is not None:
            threading.Thread(target=browse, args=(address,), daemon=True).start()

    serve(Desk(library, layers), said)


@contextmanager
def stopping_at_once() -> Generator[None]:
    """Leave Ctrl-C to the operating system, unless it is ignored or somebody else's."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
