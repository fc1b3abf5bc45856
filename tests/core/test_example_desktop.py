"""The desktop tool, driven without a screen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit import Model
from edgekit.runtimes.fake import FakeEngine
from tests.core.examples import SCHEMA, Gate, load_example


@pytest.fixture(scope="module")
def desktop() -> Any:
    """The example's module."""
    return load_example("desktop/desktop.py")


def rows(app: Any) -> list[list[str]]:
    """The table as it stands."""
    table = app.query_one("DataTable")
    return [list(map(str, table.get_row_at(at))) for at in range(table.row_count)]


def status(app: Any) -> str:
    """The line below it."""
    return str(app.query_one("#status").content)


def test_fields_of_a_real_model(desktop: Any, bundles: Path) -> None:
    async def use(app: Any) -> None:
        async with app.run_test() as pilot:
            app.query_one("TextArea").text = "My name is Zoe Miller and we are six"
            await pilot.press("ctrl+r")
            await app.workers.wait_for_complete()
            found = {field: (value, sure) for field, value, sure in rows(app)}
            assert found["people"][0] == "six" and found["first_name"][0] == "Zoe"
            assert found["date"][0] == "" and float(found["date"][1]) > 0.5
            assert status(app) == "Done."
            app.query_one("TextArea").text = ""
            await pilot.click("#extract")
            await app.workers.wait_for_complete()
            assert status(app) == "empty: the text is empty" and rows(app) == []

    with edgekit.load(bundles / "restaurant-q8_0", threads=1) as model:
        asyncio.run(use(desktop.Desktop(model)))


def test_the_window_goes_on_while_the_model_works(desktop: Any) -> None:
    gate = Gate('{"people":"two"}')

    async def use(app: Any) -> None:
        async with app.run_test() as pilot:
            await pilot.press("h", "i")
            await pilot.press("ctrl+r")
            await asyncio.to_thread(gate.reached.wait)
            await pilot.press("!")
            assert app.query_one("TextArea").text == "hi!" and status(app) == "Reading …"
            gate.open.set()
            await app.workers.wait_for_complete()
            assert [row[:2] for row in rows(app)] == [["people", "two"]]

    with Model(FakeEngine(gate), prompt="{text}", schema=SCHEMA) as model:
        asyncio.run(use(desktop.Desktop(model)))


def test_a_new_text_ends_the_work_on_the_old_one(desktop: Any) -> None:
    gate = Gate('{"people":"two"}')

    def script(prompt: str) -> str:
        return gate(prompt) if prompt == "old" else '{"people":"new"}'

    async def use(app: Any) -> None:
        async with app.run_test() as pilot:
            for text in ("old", "new"):
                app.query_one("TextArea").text = text
                await pilot.press("ctrl+r")
                await asyncio.to_thread(gate.reached.wait)
            gate.open.set()
            await app.workers.wait_for_complete()
            assert [row[1] for row in rows(app)] == ["new"]

    with Model(FakeEngine(script), prompt="{text}", schema=SCHEMA) as model:
        asyncio.run(use(desktop.Desktop(model)))


def test_an_error_is_a_line_not_a_crash(desktop: Any) -> None:
    async def use(app: Any) -> None:
        async with app.run_test() as pilot:
            await pilot.press("x", "ctrl+r")
            await app.workers.wait_for_complete()
            assert status(app).startswith("model: there is no output schema")

    with Model(FakeEngine("x")) as model:
        asyncio.run(use(desktop.Desktop(model)))
