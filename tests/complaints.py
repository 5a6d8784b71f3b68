"""What a browser complains about while a page is open."""

from typing import Any


def complaints_of(page: Any) -> list[str]:
    """A list that grows with every message of the console and every error of a script."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints
