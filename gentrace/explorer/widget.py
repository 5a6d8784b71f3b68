"""The page as a notebook widget, whose numbers come from the kernel when they are looked at.

This module needs anywidget, and is imported only where a notebook shows a page.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from gentrace.errors import GentraceError
from gentrace.explorer.answers import Answers
from gentrace.explorer.bundle import asset


class ExplorerWidget(anywidget.AnyWidget):
    """A page in a frame; each of its questions is one message, and each answer another with one buffer below 1 MB."""

    _esm = asset("widget.mjs")
    title = traitlets.Unicode().tag(sync=True)
    page = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int().tag(sync=True)
    mark = traitlets.Unicode().tag(sync=True)
    """A word of its own, by which others in the document see that it is there."""

    def __init__(self, title: str, page: str, height: int, answers: Answers) -> None:
        """Show a page that asks the kernel.

        Args:
            title: Title of the frame.
            page: The page, without numbers.
            height: Pixels that it gets.
            answers: Where its numbers come from.
        """
        super().__init__(title=title, page=page, height=height, mark=secrets.token_hex(8))
        self._answers = answers
        self.on_msg(self._asked)

    def _asked(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        reply = {"view": content.get("view"), "id": content.get("id")}
        try:
            found = self._answers.answer(content.get("question") or {})
        except (GentraceError, OSError) as error:
            self.send(reply | {"error": str(error)})
        else:
            self.send(reply, [found])
