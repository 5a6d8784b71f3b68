"""The same browser as for the pages, here to read back what was written."""

from tests.views.conftest import browser

__all__ = ["browser"]
