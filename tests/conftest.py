"""Set up every test alike: one thread, since the models are tiny, and annotations of public functions checked."""

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
install_import_hook(
    ["gentrace.stitch", "gentrace.trace", "gentrace.capture.decoding.probabilities"], "beartype.beartype"
)
