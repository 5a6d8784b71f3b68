"""A page in a browser, with everything it complained about and asked the network for."""

from pathlib import Path
from typing import Any

from tests.complaints import complaints_of


class Opened:
    def __init__(self, browser: Any, path: Path | str, address: str = "", **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        self.context.set_offline(isinstance(path, Path))
        self.page = self.context.new_page()
        self.complaints = complaints_of(self.page)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{path.as_uri() if isinstance(path, Path) else path}#{address}")
        self.page.wait_for_selector("body[data-loaded]", state="attached", timeout=60_000)

    def close(self) -> None:
        """The page did its work without a complaint, and asked for nothing but itself."""
        self.context.close()
        assert not self.complaints, "; ".join(self.complaints)
        own = self.requests[0].split("#")[0]
        asked = {url.split("#")[0] for url in self.requests if not url.startswith("blob:")} - {own}
        # A served page asks its server, a file nobody.
        assert all(
            own.startswith("http://127.0.0.1:") and url.startswith(own.replace("/open?", "/ask?")) for url in asked
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).text_content()

    def until(self, condition: str) -> None:
        """Wait for a JavaScript expression to hold; the page's policy forbids Playwright's own way."""
        self.page.evaluate(
            """async () => {
                const end = performance.now() + 60_000;
                while (!(CONDITION)) {
                    if (performance.now() > end) throw new Error("waited in vain for what a test asks for");
                    await new Promise((done) => setTimeout(done, 20));
                }
            }""".replace("CONDITION", condition)
        )

    def state(self) -> dict[str, Any]:
        return self.page.evaluate("explorer.v")

    def address(self) -> dict[str, str]:
        """The address, once the page has written it."""
        self.until("location.hash === explorer.state.address()")
        pairs = self.page.evaluate("[...new URLSearchParams(location.hash.slice(1))]")
        return dict(pairs)

    def tip(self) -> dict[str, str]:
        if self.page.locator("#tip").is_hidden():
            return {}
        parts = self.page.locator("#tip > *").all_text_contents()
        return dict(zip(parts[0::3], parts[1::3], strict=True)) | {
            f"{name} token": text for name, text in zip(parts[0::3], parts[2::3], strict=True)
        }

    def point_at(self, cells: str, row: int, key: int, rows: int, keys: int) -> dict[str, str]:
        """Move the pointer over a cell of a matrix and read the tooltip."""
        box = self.page.locator(cells).bounding_box()
        self.page.mouse.move(
            box["x"] + (key + 0.5) * box["width"] / keys, box["y"] + (row + 0.5) * box["height"] / rows
        )
        return self.tip()
