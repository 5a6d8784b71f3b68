"""From a name to a model, and from every failure to one error."""

import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from gentrace.demo import ModelNotFoundError, load, loading
from gentrace.errors import GentraceError

FOLDER = Path(str(files("gentrace.demo") / "story"))


def test_a_folder_and_the_bundled_name_are_the_same_model(story: tuple[Any, Any]) -> None:
    model, tokenizer = load(FOLDER)
    ids = torch.tensor([tokenizer("Maia found a red ball.")["input_ids"]])
    assert torch.equal(model(input_ids=ids).logits, story[0](input_ids=ids).logits)


def test_device_and_dtype() -> None:
    model, _ = load("story", device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert load("story", dtype=torch.float16)[0].dtype == torch.float16
    assert load("story")[0].dtype == torch.float32


@pytest.mark.parametrize("choice", [{"device": "nowhere"}, {"dtype": "float31"}])
def test_a_device_or_dtype_that_does_not_exist(choice: dict[str, str]) -> None:
    with pytest.raises(ModelNotFoundError, match=r"Loading the model 'story'.*a device and a dtype that exist here"):
        load("story", **choice)


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no model")
    for path, seen in ((tmp_path / "gone", "no such folder"), (file, "no such folder"), (tmp_path, "no config.json")):
        with pytest.raises(ModelNotFoundError, match=seen) as caught:
            load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load("./gone")


def test_a_folder_whose_model_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ModelNotFoundError, match="a Hugging Face causal language model") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_unknown_name_where_no_hub_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_hub_reachable", lambda: False)
    with pytest.raises(GentraceError, match=r"'nobody/no-such-model'.*cannot be reached.*story") as caught:
        load("nobody/no-such-model")
    assert type(caught.value) is ModelNotFoundError
    assert isinstance(caught.value.__cause__, Exception)


def test_a_hub_that_does_not_resolve_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def fail(*_: Any) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert not loading._hub_reachable()
    monkeypatch.setattr(loading, "getproxies", lambda: {"https": "http://proxy:1"})
    assert loading._hub_reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not loading._hub_reachable()


def test_progress_bars_are_left_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    shown = logging.is_progress_bar_enabled()
    try:
        logging.enable_progress_bar()
        load("story")
        assert logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        load("story")
        assert not logging.is_progress_bar_enabled()
    finally:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    assert capfd.readouterr() == ("", "")


def test_the_room_is_light_to_import() -> None:
    code = "import gentrace.demo, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
