"""A tiny random model of every text-generating and masked type that transformers maps.

The tests of gentrace need one runnable model per type, without a hub: the sizes come from one table of field names and
from one table of what single types need beyond it.
"""

from tests.zoo.build import TASKS, NotBuildable, build, types
from tests.zoo.inputs import model_inputs

__all__ = ["TASKS", "NotBuildable", "build", "model_inputs", "types"]
