"""What a trace looks like: the only room with Plotly. A view takes a finished trace and returns a value."""

from gentrace.views.page import replay_page
from gentrace.views.replay import replay

__all__ = ["replay", "replay_page"]
