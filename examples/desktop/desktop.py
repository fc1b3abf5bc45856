"""A desktop tool: paste a text, press Ctrl+R, see the fields with their confidences.

Run: pip install 'edgekit[llamacpp,examples]', then python examples/desktop/desktop.py dist/restaurant-q4_k_m

It is made with Textual rather than Tk: it runs in any terminal, over SSH too, needs no display to be tested, and lives in an
event loop, so that a call of the model is an ``await`` and the window never stands still. With Tk, call ``model.extract``
in a thread and hand its result over by ``widget.after``.
"""

import sys
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Button, DataTable, Footer, Header, Static, TextArea

import edgekit

LEAST = 0.5


class Desktop(App[None]):
    """One text, one table; a new request ends the one before it."""

    CSS = """
    TextArea, DataTable { height: 1fr; border: round $primary; }
    Horizontal { height: 3; }
    #status { height: 3; padding: 1; width: 1fr; }
    """
    # Not Ctrl+E: in a field of text that is the end of the line.
    BINDINGS: ClassVar[list[BindingType]] = [("ctrl+r", "extract", "Extract"), ("ctrl+q", "quit", "Quit")]

    def __init__(self, model: edgekit.Model) -> None:
        super().__init__()
        self.model = model
        self.title = f"edgekit: {model.name}"

    def compose(self) -> ComposeResult:
        """The text above, its fields below."""
        yield Header()
        yield TextArea(id="text", placeholder="Paste a text here.")
        with Horizontal():
            yield Button("Extract", id="extract", variant="primary")
            yield Static("Paste a text and press Ctrl+R.", id="status", markup=False)
        yield DataTable[str | Text](id="fields", show_cursor=False)
        yield Footer()

    def on_mount(self) -> None:
        """Name the parts."""
        table = self.query_one(DataTable)
        for name, width in (("field", 16), ("value", 40), ("confidence", 12)):
            table.add_column(name, width=width)
        table.border_title, self.query_one(TextArea).border_title = "Fields", "Text"

    def on_button_pressed(self) -> None:
        """The button does what the key does."""
        self.action_extract()

    def action_extract(self) -> None:
        """Ask, without waiting."""
        self.query_one(DataTable).clear()
        self.say("Reading …")
        self.extract(self.query_one(TextArea).text)

    @work(exclusive=True)  # one at a time: a new one cancels the former, which frees its place in the model
    async def extract(self, text: str) -> None:
        """Wait for the fields and show them; the window goes on meanwhile."""
        try:
            found = await self.model.aextract(text, min_confidence=LEAST, deadline=60)
        except edgekit.EdgekitError as error:
            self.say(str(error).replace("\n", " "))
        else:
            self.show(found)

    def say(self, status: str) -> None:
        """The line beside the button."""
        self.query_one("#status", Static).update(status)

    def show(self, found: edgekit.Extraction) -> None:
        """A row per field, or the reason why there is none."""
        if found.failure is not None:
            self.say(f"{found.failure.code}: {found.failure.message}")
            return
        for field, value in found.data.items():
            sure = found.confidence[field]
            doubt = Text(f"{sure:.2f} ?", "bold yellow") if sure < LEAST else Text(f"{sure:.2f}")
            self.query_one(DataTable).add_row(field, "" if value is None else str(value), doubt)
        self.say("Please check what is doubtful." if found.needs_review else "Done.")


if __name__ == "__main__":
    with edgekit.load(sys.argv[1] if len(sys.argv) > 1 else "dist/restaurant-q4_k_m") as loaded:
        Desktop(loaded).run()
