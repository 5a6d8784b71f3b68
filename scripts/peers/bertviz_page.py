"""One bertviz page of given attention, written by bertviz's own environment; gentrace is not in it.

python -I scripts/peers/bertviz_page.py INPUT.pt VIEW OUTPUT.html
"""

import sys
import time
from pathlib import Path
from typing import Any

import bertviz
import torch

if __name__ == "__main__":
    source, view, target = sys.argv[1:]
    given: dict[str, Any] = torch.load(source, weights_only=True)
    begin = time.perf_counter()
    page = getattr(bertviz, view)(given["attention"], given["tokens"], html_action="return")
    Path(target).write_text(page.data, "utf-8")
    print(time.perf_counter() - begin)
