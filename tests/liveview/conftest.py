"""The same browser as for the pages."""

from tests.views.conftest import browser

__all__ = ["browser"]
