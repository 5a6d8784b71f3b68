"""The modules become one script that means the same."""

import re

import pytest

from gentrace.errors import ViewError
from gentrace.explorer import bundle


def test_every_module_ships_once_after_what_it_needs() -> None:
    order = bundle.order()
    shipped = {path.name.removesuffix(".js") for path in bundle.files("gentrace.explorer").joinpath("assets").iterdir()
               if path.name.endswith(".js")}  # fmt: skip
    assert len(order) == len(set(order))
    assert set(order) == shipped
    for place, module in enumerate(order):
        needed = re.findall(r'from "\./(\w+)\.js"', bundle.asset(f"{module}.js"))
        assert set(needed) <= set(order[:place])


def test_nothing_is_left_that_a_lone_script_cannot_do() -> None:
    script = bundle.script()
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    assert "</script" not in script
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", script)


def test_exported_names_are_unique_and_all_imports_exist() -> None:
    exported = [name for module in bundle.order() for name in bundle._EXPORT.findall(bundle.asset(f"{module}.js"))]
    assert len(exported) == len(set(exported))
    for module in bundle.order():
        for names, source in re.findall(r'import \{([^}]*)\} from "\./(\w+)\.js"', bundle.asset(f"{module}.js")):
            assert {name.strip() for name in names.split(",")} <= set(
                bundle._EXPORT.findall(bundle.asset(f"{source}.js"))
            )


def test_a_circle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a.js": 'import { b } from "./b.js";\n', "b.js": 'import { a } from "./a.js";\n'}
    monkeypatch.setattr(bundle, "asset", texts.__getitem__)
    with pytest.raises(ViewError, match="a → b → a"):
        bundle.order("a")
