"""The models that gentrace shows itself with.

`load_story_model` needs nothing but this package; `load` takes the name of a demo model or of any Hugging Face model,
and `load_encoder` does so for encoders such as BERT.
"""

from gentrace.demo.encoders import load_encoder
from gentrace.demo.errors import ModelNotFoundError
from gentrace.demo.loading import load, load_story_model

__all__ = ["ModelNotFoundError", "load", "load_encoder", "load_story_model"]
