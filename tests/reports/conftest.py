"""The same browser as for the other pages."""

from tests.views.conftest import browser

__all__ = ["browser"]
