"""The command line as a user meets it: what it writes, and one clear line for what it cannot do."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import gentrace
from gentrace.cli import main, parse_layers
from gentrace.demo import load

PROMPT = "Maia is a cute little baby"


def call(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


def fails(result: Result, message: str) -> None:
    """Assert a non-zero exit and one line that says what is wrong."""
    assert result.exit_code != 0
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert message in lines[0]


def test_run_writes_a_trace_and_its_page(tmp_path: Path) -> None:
    out, html = tmp_path / "trace.safetensors", tmp_path / "replay.html"
    result = call("run", "--prompt", PROMPT, "--max-new-tokens", 6, "--layers", "0,1", "--out", out, "--html", html)
    assert result.exit_code == 0, result.output
    trace = gentrace.load(out)
    assert [info.index for info in trace.layers] == [0, 1]
    assert trace.tokens.text.startswith(PROMPT)
    assert len(trace.tokens) == trace.tokens.prompt_length + 6
    assert "<!doctype html>" in html.read_text(encoding="utf-8")[:200].lower()
    shown = call("info", out).stdout
    assert f"{trace.tokens.prompt_length} given, 6 generated" in shown
    assert "2 recorded" in shown
    assert "largest relative error" in shown


def test_view_makes_one_page_of_several_traces(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        paths.append(tmp_path / f"{name}.safetensors")
        result = call("run", "--prompt", PROMPT, "--max-new-tokens", 4, "--layers", "0,1", "--out", paths[-1])
        assert result.exit_code == 0, result.output
    page = tmp_path / "page.html"
    result = call("view", *paths, "--out", page, "--no-open")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(page.resolve())
    assert page.stat().st_size > 20_000
    fails(call("view", paths[0], "--layers", "7", "--out", page, "--no-open"), "layer 7")


def test_a_completion_is_read_and_not_generated(tmp_path: Path) -> None:
    written, out = tmp_path / "completion.txt", tmp_path / "trace.safetensors"
    written.write_text(" They went to the park.", encoding="utf-8")
    assert call("run", "--prompt", PROMPT, "--completion", written, "--out", out).exit_code == 0
    trace = gentrace.load(out)
    assert trace.tokens.text == f"{PROMPT} They went to the park."
    assert 0 < trace.tokens.prompt_length < len(trace.tokens) == trace.length
    failed = call("run", "--prompt", PROMPT, "--completion", tmp_path / "missing", "--out", out)
    fails(failed, "No such file")


def test_sampling_is_seeded(tmp_path: Path) -> None:
    def sampled(seed: int) -> list[int]:
        out = tmp_path / f"{seed}.safetensors"
        settings = ("--sample", "--temperature", 1.5, "--top-k", 50, "--top-p", 0.95, "--seed", seed)
        assert call("run", "--prompt", PROMPT, "--max-new-tokens", 12, *settings, "--out", out).exit_code == 0
        return gentrace.load(out).tokens.ids.tolist()

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_what_is_sampled_from_and_what_is_kept_are_two_options(tmp_path: Path) -> None:
    model, tokenizer = load("story")
    inputs = tokenizer([PROMPT], return_tensors="pt")

    def theirs(**options: Any) -> list[int]:
        """What transformers writes with a seed."""
        torch.manual_seed(3)
        given = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "pad_token_id": 0, **options}
        return model.generate(**inputs, **given)[0].tolist()

    settings = ("--sample", "--temperature", 1.5, "--seed", 3, "--max-new-tokens", 12)
    for top_k, kept in ((2, 5), (4, 3)):
        out = tmp_path / f"{top_k}.safetensors"
        more = ("--top-k", top_k, "--alternatives", kept, "--out", out)
        assert call("run", "--prompt", PROMPT, *settings, *more).exit_code == 0
        tokens = gentrace.load(out).tokens
        assert tokens.ids.tolist() == theirs(top_k=top_k)
        assert tokens.top_ids.shape == (len(tokens), kept)
    assert theirs(top_k=2) != theirs(top_k=4)
    # In Python as well, where both doors call it top_k.
    texts = {"max_new_tokens": 12, "temperature": 1.5}
    torch.manual_seed(3)
    tokens = gentrace.generate(model, tokenizer, PROMPT, do_sample=True, top_k=2, **texts).tokens
    assert (tokens.ids.tolist(), tokens.top_ids.shape[1]) == (theirs(top_k=2), 10)
    assert gentrace.generate(model, tokenizer, PROMPT, max_new_tokens=1, top_k=3).tokens.top_ids.shape[1] == 3
    assert gentrace.generate(model, tokenizer, PROMPT, max_new_tokens=1, alternatives=4).tokens.top_ids.shape[1] == 4


def test_the_prompt_can_come_from_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "trace.safetensors"
    assert call("run", "--prompt", "-", "--max-new-tokens", 2, "--out", out, input=PROMPT).exit_code == 0
    assert gentrace.load(out).tokens.text.startswith(PROMPT)


def test_demo_writes_into_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("gentrace.cli.webbrowser.open", opened.append)
    result = call("demo", "--no-open", "--max-new-tokens", 4)
    page = tmp_path / "gentrace-demo.html"
    assert result.exit_code == 0
    assert page.exists()
    assert str(page) in result.stdout
    assert not opened
    assert call("demo", "--max-new-tokens", 4, "--out", "other.html").exit_code == 0
    assert opened == [(tmp_path / "other.html").as_uri()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "no/such-model", "--prompt", PROMPT), "no/such-model"),
        (("--prompt", "   "), "the prompt is empty"),
        (("--prompt", "baby " * 2000), "more than the model's context"),
        (("--prompt", PROMPT, "--layers", "99"), "layers [99] do not exist"),
        (("--prompt", PROMPT, "--layers", "a-b"), "not a list of layers"),
        (("--prompt", PROMPT, "--temperature", "0.5"), "--temperature needs --sample"),
        (("--prompt", PROMPT, "--device", "nonsense"), "nonsense"),
    ],
)
def test_bad_input_is_one_clear_line(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "trace.safetensors"
    fails(call("run", *options, "--out", out), message)
    assert not list(tmp_path.iterdir())


def test_paths_are_tried_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("gentrace.cli.record_prompt", refuse)
    fails(call("run", "--prompt", PROMPT, "--out", tmp_path / "no" / "t.safetensors"), "no such folder")
    fails(call("run", "--prompt", PROMPT, "--html", tmp_path), "is a folder")
    monkeypatch.setattr("gentrace.cli.tempfile.mkstemp", _raise(OSError(errno.EACCES, "Permission denied", "there")))
    fails(call("run", "--prompt", PROMPT, "--out", tmp_path / "t.safetensors"), "Permission denied: there")


def _raise(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_full_disk_does_not_lose_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gentrace.trace.trace import Trace

    out, spare = tmp_path / "full" / "trace.safetensors", tmp_path / "spare"
    out.parent.mkdir()
    spare.mkdir()
    original = Trace.save

    def save(self: Trace, path: Any) -> None:
        if Path(path).parent == out.parent:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(self, path)

    monkeypatch.setattr(Trace, "save", save)
    monkeypatch.setattr("gentrace.cli.tempfile.gettempdir", lambda: str(spare))
    result = call("run", "--prompt", PROMPT, "--max-new-tokens", 2, "--out", out)
    (rescued,) = spare.iterdir()
    fails(result, f"No space left on device: {out} — the trace itself is safe in {rescued}")
    assert gentrace.load(rescued).tokens.text.startswith(PROMPT)


def test_a_page_that_fails_does_not_lose_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "trace.safetensors"
    monkeypatch.setattr(
        "gentrace.cli.write_page", _raise(gentrace.ViewBudgetError("drawing", "too big", "choose rows"))
    )
    result = call("run", "--prompt", PROMPT, "--max-new-tokens", 2, "--out", out, "--html", tmp_path / "page.html")
    fails(result, f"drawing. too big. choose rows. — the trace itself is safe in {out}")
    assert gentrace.load(out).length > 4


def test_info_refuses_what_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_text("nothing of the kind")
    fails(call("info", path), "not a safetensors file")
    fails(call("info", tmp_path / "missing"), "No such file or directory")


def test_nothing_to_write_and_unknown_commands() -> None:
    assert "nothing to write" in call("run", "--prompt", PROMPT).stderr
    assert call("fly").exit_code == 2
    assert call("--version").stdout.strip() == f"gentrace, version {gentrace.__version__}"


def test_layers() -> None:
    assert parse_layers("--layers", None) is None
    assert parse_layers("--layers", "3,0, 1-2") == [0, 1, 2, 3]


def test_help_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from gentrace.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*sorted({'torch', 'transformers', 'plotly', 'numpy', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout
    assert done.stderr.strip() == ""


def test_the_page_shows_the_layers_that_were_asked_for(tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    result = call("run", "--prompt", PROMPT, "--max-new-tokens", 2, "--html", html, "--show", "0,2")
    assert result.exit_code == 0, result.output
    text = html.read_text(encoding="utf-8")
    assert '"layer":0' in text.replace(" ", "")
    assert '"layer":1' not in text.replace(" ", "")
    fails(call("run", "--prompt", PROMPT, "--max-new-tokens", 2, "--html", html, "--show", "9"), "layer 9")


def test_live_draws_and_writes_the_same_trace(tmp_path: Path) -> None:
    alone, drawn = tmp_path / "alone.safetensors", tmp_path / "drawn.safetensors"
    settings = ("--prompt", PROMPT, "--max-new-tokens", 6, "--sample", "--seed", 3)
    assert call("run", *settings, "--out", alone).exit_code == 0
    result = call("run", "--live", "1.2", *settings, "--out", drawn)
    assert result.exit_code == 0, result.output
    trace = gentrace.load(drawn)
    assert trace.tokens.ids.equal(gentrace.load(alone).tokens.ids)
    assert trace.attention(1).equal(gentrace.load(alone).attention(1))
    header, *lines = result.stdout.splitlines()
    assert header.startswith("# layer 1 · head 2")
    assert len(lines) == 6 + 1 + 1
    assert float(lines[-3].split(",")[0].split()[-1]) == pytest.approx(float(trace.attention(1, 2)[-1].max()), abs=1e-4)
    assert "# layer 3 · mean of 4 heads" in call("run", "--live", "--prompt", PROMPT, "--max-new-tokens", 2).stdout


def test_live_says_what_it_cannot_draw(tmp_path: Path) -> None:
    fails(call("run", "--prompt", PROMPT, "--live", "last"), "give a layer such as 3")
    assert call("run", "--prompt", PROMPT, "--live", "1", "--completion", tmp_path / "text").exit_code == 2
    result = call("run", "--prompt", PROMPT, "--live", "40", "--max-new-tokens", 2)
    assert result.exit_code == 0
    assert "the live picture ended, the model goes on: watching self attention of layer 40" in result.stdout
