"""A study of five million rows: a slice and every picture need a part of the memory that its table needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gentrace.studies import open_study
from gentrace.views.study_contrast import read_contrast
from gentrace.views.study_tables import means, read_sample
from tests.studies.big import HEADS, LAYERS, MEASURE, value_of, write_big_study

PARTS, EACH, PROMPTS = 20, 1000, 500
PROGRAM = """
import json, re, sys
from pathlib import Path
import pandas, plotly.graph_objects, scipy.stats
from gentrace import open_study, views
from tests.studies.big import MEASURE
study = open_study(sys.argv[1])
peaks = {}
def after(name, what):
    what()
    # Not ru_maxrss, which begins with what the parent had.
    peaks[name] = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
after("open", lambda: views.distribution(study, "entropy", where={"generation": "0" * 16}))
after("slice", lambda: study.heads(["layer", MEASURE], decoding="greedy", layer=3, head=1))
after("tokens", lambda: study.tokens(generation="0" * 16))
after("head_map", lambda: views.head_map(study, MEASURE))
after("distribution", lambda: views.distribution(study, MEASURE, by="decoding"))
after("by_step", lambda: views.by_step(study, "entropy", by="size"))
after("contrast", lambda: views.contrast(study, MEASURE, "decoding"))
after("table", lambda: study.heads())
print(json.dumps(peaks))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("big") / "study"
    write_big_study(out, PARTS, EACH, PROMPTS)
    return out


def test_a_slice_and_the_pictures_do_not_load_the_table(big: Path) -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM, str(big)], capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stderr
    peaks = json.loads(found.stdout)
    grown = {name: peak - peaks["open"] for name, peak in peaks.items()}
    # MiB that the process grew by; a row of the table takes some 100 bytes while it is read.
    assert grown["table"] > 400, grown
    assert grown["tokens"] < 80, grown
    assert grown["contrast"] < 300, grown


def test_the_pictures_say_what_was_written(big: Path) -> None:
    study = open_study(big)
    layer, head = np.divmod(np.arange(LAYERS * HEADS), HEADS)
    numbers = np.arange(PARTS * EACH)
    # Every prompt stands equally often in both settings, so that the mean over prompts is the mean over generations.
    greedy, sampled = (
        np.array([value_of(half, one, other).mean() for one, other in zip(layer, head, strict=True)])
        for half in np.split(numbers, 2)
    )
    sample = read_sample(study, MEASURE)
    assert sample.cells == tuple(zip(layer.tolist(), head.tolist(), strict=True))
    found = means(sample.groups[0])
    np.testing.assert_allclose(found.mean, (greedy + sampled) / 2, rtol=1e-12)
    assert (found.count == PROMPTS).all()
    difference = read_contrast(study, MEASURE, "decoding")
    assert difference.paired
    np.testing.assert_allclose(difference.difference, greedy - sampled, atol=1e-12)
    rows = study.heads([MEASURE], decoding="sample", layer=3, head=[1, 2])
    assert len(rows) == 2 * PARTS * EACH // 2
