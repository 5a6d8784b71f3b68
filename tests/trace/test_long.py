"""A long text is read in little memory: a process that could not hold one matrix reads rows, windows and overviews."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.views.made import made_tokens, made_trace

LENGTH, DIM = 32768, 16
LIMITED = """
import resource, sys
import torch
from safetensors.torch import save_file
import gentrace
torch.set_num_threads(int(sys.argv[3]))
length, room = 32768, 900_000_000
trace = gentrace.load(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
try:
    torch.empty(length, length, dtype=torch.bool)
except RuntimeError:
    pass
else:
    sys.exit("the limit does not limit")
overview = trace.overview(0, 1)
assert overview.query_edges == overview.key_edges == tuple(range(0, length + 1, 64))
save_file(
    {
        "row": trace.attention(0, 1, queries=slice(30000, 30001))[0],
        "last row": trace.attention(0, queries=slice(-1, None))[:, 0],
        "weight": trace.score_terms(0, 1, 30000).weight,
        "of many": trace.attention(0, 1, queries=slice(0, 3600))[3500:].clone(),
        "window": trace.attention(0, 1, queries=slice(20000, 20200), keys=slice(19900, 20100)),
        "scores": trace.scores(0, 1, queries=slice(20000, 20200), keys=slice(19900, 20100)),
        "overview": overview.values,
        "overview of scores": trace.overview(0, 1, what="scores").values,
    },
    sys.argv[2],
)
"""


def made_vectors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(2, LENGTH, DIM, generator=generator) for _ in range(2))
    return queries, keys


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "trace.safetensors"
    made_trace(*made_vectors(), made_tokens([" word"] * (LENGTH + 1), 100)).save(path)
    return path


def rows_by_hand(first: int, last: int, head: int = 1) -> tuple[Tensor, Tensor]:
    """Scores and weights of some rows over all keys, in float64."""
    queries, keys = (one[head].double() for one in made_vectors())
    later = torch.arange(LENGTH) > torch.arange(first, last)[:, None]
    scores = (queries[first:last] @ keys.T).masked_fill(later, -torch.inf)
    return scores, scores.softmax(-1)


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found.double(), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_trace_under_a_memory_limit(saved: Path, tmp_path: Path, threads: int) -> None:
    out = tmp_path / "read.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(saved), str(out), str(threads)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    read = load_file(out)
    weights = rows_by_hand(30000, 30001)[1][0]
    assert close(read["row"], weights)
    assert close(read["weight"], weights)
    last = torch.cat([rows_by_hand(LENGTH - 1, LENGTH, head)[1] for head in (0, 1)])
    assert close(read["last row"], last)
    # These take 472 MB of the 900, so that the scores of all of them cannot have been beside them.
    assert close(read["of many"], rows_by_hand(3500, 3600)[1])
    scores, weights = rows_by_hand(20000, 20200)
    assert close(read["window"], weights[:, 19900:20100])
    assert close(read["scores"], scores[:, 19900:20100])
    assert read["overview"].shape == (512, 512)
    for block in (0, 17, 300, 511):
        scores, weights = rows_by_hand(64 * block, 64 * block + 64)
        assert close(read["overview"][block], weights.view(64, 512, 64).amax((0, 2)))
        assert close(read["overview of scores"][block], scores.view(64, 512, 64).amax((0, 2)))
