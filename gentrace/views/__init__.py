"""What a trace looks like: the only room with Plotly. A view takes a finished trace and returns a value.

`head_map`, `distribution`, `by_step` and `contrast` take a study instead, as `gentrace.open_study` gives it.
"""

from gentrace.stitch.rotary import RotaryRule
from gentrace.views.attention_grid import attention_grid
from gentrace.views.attention_map import attention_map
from gentrace.views.attention_table import attention_frame, attention_table
from gentrace.views.beam_tree import beam_tree
from gentrace.views.by_step import by_step
from gentrace.views.cells import mean
from gentrace.views.compare import compare
from gentrace.views.contrast import contrast
from gentrace.views.distribution import distribution
from gentrace.views.head_map import head_map
from gentrace.views.head_view import head_view
from gentrace.views.model_view import model_view
from gentrace.views.neuron_view import neuron_view
from gentrace.views.page import replay_page
from gentrace.views.replay import replay
from gentrace.views.token_strip import token_strip

__all__ = [
    "RotaryRule",
    "attention_frame",
    "attention_grid",
    "attention_map",
    "attention_table",
    "beam_tree",
    "by_step",
    "compare",
    "contrast",
    "distribution",
    "head_map",
    "head_view",
    "mean",
    "model_view",
    "neuron_view",
    "replay",
    "replay_page",
    "token_strip",
]
