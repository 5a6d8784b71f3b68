"""The same browser as for the other pages, and a page's contents read back without the page."""

from tests.views.conftest import browser

__all__ = ["browser"]
