"""What the server answers, and above all what it does not."""

import asyncio
import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from starlette.testclient import TestClient

from gentrace.errors import ViewError
from gentrace.explorer.answers import MOST
from gentrace.explorer.library import Library, name_files
from gentrace.explorer.serve import Desk, Guard
from gentrace.trace.store import MemoryStore
from gentrace.views.labels import running
from tests.explorer.unpacked import close_enough, data_of, weights_of
from tests.views.made import HOSTILE, random_trace
from tests.views.made_kinds import causal

TOKEN, PORT = "tok" * 14, 5123
WORDS = [*HOSTILE, *(f" word{place}" for place in range(280))]


def client(library: Library, host: str = f"127.0.0.1:{PORT}") -> TestClient:
    return TestClient(Guard(Desk(library).app(), TOKEN, PORT), base_url=f"http://{host}")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of traces beside one that must not be read, and links to both."""
    root = tmp_path_factory.mktemp("served")
    inside = root / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / ".hidden").mkdir()
    trace = random_trace(len(WORDS), 6, heads=2, texts=WORDS, layers=(0, 2))
    trace.save(inside / "a <b>&.safetensors")
    causal(4, 2, 12).save(inside / "sub" / "grouped.safetensors")
    causal(2, 2, 9, scores_only=True).save(inside / "sub" / "scores.safetensors")
    random_trace(360, 6).save(inside / "sub" / "tall.safetensors")
    replace(cut := causal(), meta=replace(cut.meta, complete=False)).save(inside / "sub" / "cut.safetensors")
    causal().save(root / "secret.safetensors")
    causal().save(inside / ".hidden" / "secret.safetensors")
    (inside / "broken.safetensors").write_bytes(b"no trace")
    (inside / "notes.txt").write_text("secret")
    (inside / "out.safetensors").symlink_to(root / "secret.safetensors")
    (inside / "again.safetensors").symlink_to(inside / "sub" / "grouped.safetensors")
    (inside / "up").symlink_to(root)
    return inside


@pytest.fixture(scope="module")
def served(folder: Path) -> TestClient:
    return client(Library(folder))


def asked(served: TestClient, name: str, **question: Any) -> Any:
    return served.get(f"/{TOKEN}/ask", params={"name": name, "question": json.dumps(question)})


def numbers(answer: Any, *shape: int) -> torch.Tensor:
    assert answer.status_code == 200, answer.text
    assert len(answer.content) <= MOST
    return torch.frombuffer(bytearray(answer.content), dtype=torch.float32).view(*shape)


def test_without_the_token_or_under_another_name_nothing_is_answered(folder: Path, served: TestClient) -> None:
    assert served.get(f"/{TOKEN}/").status_code == 200
    paths = (
        "/", f"/{TOKEN}", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"//{TOKEN}/", f"/{TOKEN.upper()}/", f"/x/{TOKEN}/",
        "/open?name=sub/grouped.safetensors", "/favicon.ico", "/%00/", "/%ff/", "/é/",
    )  # fmt: skip
    for path in paths:
        answer = served.get(path)
        assert (answer.status_code, answer.text) == (403, "forbidden"), path
        assert served.post(path).status_code == 403
    for host in (
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1.nip.io:{PORT}",
    ):
        assert client(Library(folder), host).get(f"/{TOKEN}/").status_code == 403, host
    assert client(Library(folder), f"localhost:{PORT}").get(f"/{TOKEN}/").status_code == 200


def test_answers_stay_with_the_page(served: TestClient) -> None:
    answer = served.get(f"/{TOKEN}/open", params={"name": "sub/grouped.safetensors"})
    assert "connect-src 'self';" in answer.text
    assert "default-src 'none'" in answer.text
    expected = {
        "cache-control": "no-store", "referrer-policy": "no-referrer", "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin", "content-security-policy": "frame-ancestors 'none'",
    }  # fmt: skip
    assert {name: answer.headers[name] for name in expected} == expected
    assert "access-control-allow-origin" not in answer.headers
    assert served.post(f"/{TOKEN}/ask").status_code == 405


def test_nothing_outside_of_the_folder_is_opened(folder: Path, served: TestClient) -> None:
    outside = folder.parent / "secret.safetensors"
    names = (
        "../secret.safetensors", "sub/../../secret.safetensors", str(outside), f"/{outside}", "out.safetensors",
        "up/secret.safetensors", ".hidden/secret.safetensors", "..%2fsecret.safetensors", "..\\secret.safetensors",
        "%2e%2e/secret.safetensors", "sub", "", ".", "notes.txt", "sub/./grouped.safetensors",
        "sub/grouped.safetensors\x00", "file:///etc/passwd", "/etc/passwd", outside.as_uri(),
    )  # fmt: skip
    for name in names:
        for one in (name, quote(name, safe="")):
            for path in ("open", "ask"):
                answer = served.get(f"/{TOKEN}/{path}", params={"name": one, "question": '{"what":"codes"}'})
                assert (answer.status_code, answer.text) == (404, "no such trace"), (path, one)
    both = served.get(f"/{TOKEN}/open?name=sub/grouped.safetensors&name=../secret.safetensors")
    assert both.status_code == 404
    for path in ("../secret.safetensors", "..%2f..%2fetc%2fpasswd", "open/../../x", "assets/app.js"):
        assert served.get(f"/{TOKEN}/{path}").status_code in (403, 404)


def test_the_list_says_what_is_there(served: TestClient) -> None:
    page = served.get(f"/{TOKEN}/").text
    assert "again.safetensors" in page
    assert "sub/grouped.safetensors" in page
    assert 'href="open?name=a+%3Cb%3E%26.safetensors"' in page
    assert "a &lt;b&gt;&amp;.safetensors" in page
    assert "made &lt;by&gt; hand" in page
    assert f"<td>{len(WORDS)}</td>" in page
    assert "&lt;s&gt;&lt;b&gt;x&lt;/b&gt;" in page
    assert "not a safetensors file" in page
    assert page.count("cut short") == 1
    assert "cut short" in page.partition("sub/cut.safetensors")[2].partition("</tr>")[0]
    for hidden in ("secret", "out.safetensors", "notes.txt", "<script", "<b>x"):
        assert hidden not in page


def test_numbers_are_the_trace_s(served: TestClient) -> None:
    name, trace = "a <b>&.safetensors", random_trace(len(WORDS), 6, heads=2, texts=WORDS, layers=(0, 2))
    page = served.get(f"/{TOKEN}/open", params={"name": name}).text
    data = data_of(page)
    layer = data["traces"][0]["layers"][1]
    assert (layer["part"], layer["index"], layer["whole"], layer["exact"]) == (1, 2, [], {})
    assert "part-0" not in page
    codes = asked(served, name, what="codes", part=1, head=1)
    shown = weights_of(torch.frombuffer(bytearray(codes.content), dtype=torch.uint8))
    pooled = trace.overview(2, 1, 256).values
    close_enough(shown, pooled[torch.ones_like(pooled).tril().bool()])
    window = numbers(asked(served, name, what="window", part=1, head=1, queries=[250, 290], keys=[10, 280]), 2, 40, 270)
    assert torch.equal(window[0], trace.attention(2, 1)[250:290, 10:280])
    assert torch.equal(window[1], trace.scores(2, 1)[250:290, 10:280])
    mean = numbers(asked(served, name, what="window", part=1, head="mean", queries=[7, 9], keys=[0, 9]), 2, 9)
    assert torch.allclose(mean, trace.attention(2).mean(0)[7:9, :9], atol=1e-7)
    grouped = causal(4, 2, 12)
    query = asked(served, "sub/grouped.safetensors", what="query", part=0, head=3, query=5)
    assert torch.equal(numbers(query, 4), grouped.queries(0)[3, 5])
    keys = asked(served, "sub/grouped.safetensors", what="keys", part=0, head=3, keys=[2, 9])
    assert torch.equal(numbers(keys, 7, 4), grouped.keys(0)[1, 2:9])


@pytest.mark.parametrize(
    "question",
    [
        {}, {"what": "codes"}, {"what": "codes", "part": 9, "head": 0}, {"what": "codes", "part": True, "head": 0},
        {"what": "codes", "part": 0, "head": -1}, {"what": "codes", "part": 0, "head": "mean"},
        {"what": "window", "part": 0, "head": 0, "queries": [0, 9], "keys": [5, 5]},
        {"what": "window", "part": 0, "head": 0, "queries": [-1, 9], "keys": [0, 5]},
        {"what": "window", "part": 0, "head": 0, "queries": [0, 10**9], "keys": [0, 5]},
        {"what": "window", "part": 0, "head": 0, "queries": [0, 1.5], "keys": [0, 5]},
        {"what": "query", "part": 0, "head": 0, "query": 9}, {"what": "secret", "part": 0, "head": 0},
        {"what": "keys", "part": 0, "head": 0, "keys": [0, 2]},
    ],
)  # fmt: skip
def test_what_a_page_would_not_ask_is_refused(served: TestClient, question: dict[str, Any]) -> None:
    assert asked(served, "sub/scores.safetensors", **question).status_code == 400


def test_too_much_at_once_is_refused(served: TestClient) -> None:
    whole = len(WORDS) - 1
    most = asked(served, "a <b>&.safetensors", what="window", part=0, head=0, queries=[0, whole], keys=[0, whole])
    assert most.status_code == 200
    for head in (0, "mean"):
        tall = asked(served, "sub/tall.safetensors", what="window", part=0, head=head, queries=[0, 359], keys=[0, 359])
        assert tall.status_code == 400
        assert "359 × 359 cells; at most 120000" in tall.text


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    causal(4, 2, 12).save(path)
    served = client(Library(None, {"one": path}))
    assert len(asked(served, "one", what="codes", part=0, head=0).content) == 12 * 13 // 2
    causal(4, 2, 8).save(path)
    assert len(asked(served, "one", what="codes", part=0, head=0).content) == 8 * 9 // 2


def test_a_file_that_another_has_taken_the_place_of_is_read_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    causal(4, 2, 12).save(path)
    served = client(Library(None, {"one": path}))
    question = {"what": "window", "part": 0, "head": 0, "queries": [0, 12], "keys": [0, 12]}
    before = numbers(asked(served, "one", **question), 2, 12, 12)
    assert torch.equal(before[0], causal(4, 2, 12).attention(0, 0))
    # The same size to the byte and the same time to the nanosecond.
    changed = causal(4, 2, 12)
    tensors = {name: changed.store.tensor(name) for name in changed.store.names()}
    tensors["layers.0.self.queries"] = -tensors["layers.0.self.queries"]
    changed = replace(changed, store=MemoryStore(tensors))
    changed.save(other)
    state = path.stat()
    assert other.stat().st_size == state.st_size
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)
    after = numbers(asked(served, "one", **question), 2, 12, 12)
    assert torch.equal(after[0], changed.attention(0, 0))
    assert not torch.equal(before, after)
    path.unlink()
    assert asked(served, "one", **question).status_code == 404


NAMES = (
    "<img src=x onerror=window.pwned=1>", "'\"` onmouseover=window.pwned=1", "${window.pwned=1}", "__proto__",
    "a\nb\x01", "javascript:window.pwned=1", "&lt;b&gt;", "\u202efdp", "\u2028", "e" + "\u0301" * 100, "%2e%2e%2f",
    "#?&name=x", "+ +", "👩\u200d👩\u200d👧", "C:\\x", "שלום",
)  # fmt: skip


def test_a_file_may_be_called_anything(tmp_path: Path) -> None:
    for place, name in enumerate(NAMES, 1):
        causal(2, 2, place + 1).save(tmp_path / f"{name}.safetensors")
    served = client(Library(tmp_path))
    page = served.get(f"/{TOKEN}/").text
    rows = re.findall(r'<td><a href="([^"]*)"><bdi>([^<>]*)</bdi></a></td>', page)
    assert sorted(html.unescape(shown) for _, shown in rows) == sorted(running(f"{name}.safetensors") for name in NAMES)
    for link, shown in rows:
        opened = served.get(f"/{TOKEN}/{html.unescape(link)}")
        assert opened.status_code == 200, shown
        data = data_of(opened.text)
        (place,) = (at for at, name in enumerate(NAMES, 1) if running(f"{name}.safetensors") == html.unescape(shown))
        assert data["traces"][0]["layers"][0]["keys"] == place + 1
        assert data["traces"][0]["name"] == html.unescape(shown)


BYTES = (
    b"caf\xe9",
    b"caf%E9",
    b"caf%E9.safetensors (not UTF-8)",
    b"\xff<img src=x onerror=window.pwned=1>",
    b"\xed\xa0\x80",
)


def test_a_file_whose_name_is_no_text_is_listed_and_opens(tmp_path: Path) -> None:
    for place, name in enumerate(BYTES, 1):
        folder = tmp_path / "inside" / os.fsdecode(b"\xe9" if place == 4 else b"sub")
        folder.mkdir(parents=True, exist_ok=True)
        causal(2, 2, place + 1).save(folder / os.fsdecode(name + b".safetensors"))
    (tmp_path / "inside" / os.fsdecode(b"broken\xe9.safetensors")).write_bytes(b"no trace")
    served = client(Library(tmp_path / "inside"))
    page = served.get(f"/{TOKEN}/").text
    rows = re.findall(r'<td><a href="([^"]*)"><bdi>([^<>]*)</bdi></a></td>', page)
    shown = {html.unescape(name): html.unescape(link) for link, name in rows}
    assert len(rows) == len(shown) == len(BYTES)
    assert "broken%E9.safetensors (not UTF-8)" in page
    names = [
        "sub/caf%E9.safetensors (not UTF-8)", "sub/caf%E9.safetensors",
        "sub/caf%E9.safetensors (not UTF-8).safetensors",
        "%E9/%FF%3Cimg src%3Dx onerror%3Dwindow.pwned%3D1%3E.safetensors (not UTF-8)",
        "sub/%ED%A0%80.safetensors (not UTF-8)",
    ]  # fmt: skip
    for keys, name in enumerate(names, 2):
        opened = served.get(f"/{TOKEN}/{shown[name]}")
        assert data_of(opened.text)["traces"][0]["layers"][0]["keys"] == keys, name
        codes = asked(served, name, what="codes", part=0, head=0)
        assert len(codes.content) == keys * (keys + 1) // 2
    broken = served.get(f"/{TOKEN}/open", params={"name": "broken%E9.safetensors (not UTF-8)"})
    assert (broken.status_code, "not a safetensors file" in broken.text) == (400, True)


def test_one_file_whose_name_is_no_text_opens(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    causal(4, 2, 12).save(path)
    served = client(Library(None, name_files((path,))))
    page = served.get(f"/{TOKEN}/").text
    assert data_of(page)["traces"][0]["name"] == "caf%E9 (not UTF-8)"
    assert len(asked(served, "caf%E9 (not UTF-8)", what="codes", part=0, head=0).content) == 12 * 13 // 2


def test_links_that_lead_nowhere_or_out_hide_nothing_else(folder: Path, tmp_path: Path) -> None:
    causal().save(tmp_path / "kept.safetensors")
    (tmp_path / "round.safetensors").symlink_to(tmp_path / "round.safetensors")
    (tmp_path / "there.safetensors").symlink_to(tmp_path / "back.safetensors")
    (tmp_path / "back.safetensors").symlink_to(tmp_path / "there.safetensors")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")
    (tmp_path / "Kept.safetensors").symlink_to(f"../{folder.parent.name}/secret.safetensors")
    (tmp_path / "long.safetensors").symlink_to("x/" * 2000)
    os.mkfifo(tmp_path / "pipe.safetensors")
    served = client(Library(tmp_path))
    page = served.get(f"/{TOKEN}/")
    assert page.status_code == 200
    assert re.findall(r"<bdi>([^<]*\.safetensors)</bdi>", page.text) == ["kept.safetensors"]
    for name in ("Kept.safetensors", "KEPT.safetensors", "round.safetensors", "pipe.safetensors", "./kept.safetensors"):
        assert served.get(f"/{TOKEN}/open", params={"name": name}).status_code == 404


def test_two_hosts_are_as_good_as_none(served: TestClient) -> None:
    for hosts in ([], [f"127.0.0.1:{PORT}", "evil.example"], [f"127.0.0.1:{PORT}", f"127.0.0.1:{PORT}"]):
        assert asyncio.run(answered(served.app, [(b"host", host.encode()) for host in hosts])) == 403
    assert asyncio.run(answered(served.app, [(b"host", f"LOCALHOST:{PORT}".encode())])) == 200


async def answered(app: Any, headers: list[tuple[bytes, bytes]]) -> int:
    """The status that an application gives a request for the list."""
    path, said = f"/{TOKEN}/", []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    await app(scope, receive, send)
    return said[0]["status"]


def test_files_get_the_shortest_names_that_differ(tmp_path: Path) -> None:
    paths = tuple(tmp_path / place / "t.safetensors" for place in ("a", "b"))
    assert list(name_files(paths)) == ["a/t", "b/t"]
    assert list(name_files(paths[:1])) == ["t"]
    with pytest.raises(ViewError, match="twice"):
        name_files((paths[0], paths[0]))
