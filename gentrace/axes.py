"""The words for axes, used alike in annotations, einops patterns, docstrings and error texts.

====================  =====================================================================
``batch``             sequences that go through the model together
``layer``             the model's own layer number
``head``              query heads
``kv_head``           key/value heads; ``head = kv_head * group + i`` under grouped-query attention
``query``             positions that look
``key``               positions that are looked at
``position``          places in one unpadded sequence, counted from 0
``dim``               components of a query, key or value vector
``vocab``             token ids
``k``                 alternatives kept per position
====================  =====================================================================
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

Queries: TypeAlias = Float[Tensor, "head query dim"]
Keys: TypeAlias = Float[Tensor, "kv_head key dim"]
Values: TypeAlias = Float[Tensor, "kv_head key value_dim"]
Matrix: TypeAlias = Float32[Tensor, "query key"]
Matrices: TypeAlias = Float32[Tensor, "head query key"]
Visible: TypeAlias = Bool[Tensor, "query key"]
Positions: TypeAlias = Int[Tensor, " position"]
PerPosition: TypeAlias = Float32[Tensor, " position"]
PerHead: TypeAlias = Float[Tensor, " head"]
TopIds: TypeAlias = Int[Tensor, "position k"]
TopLogprobs: TypeAlias = Float32[Tensor, "position k"]
Logits: TypeAlias = Float[Tensor, "position vocab"]
