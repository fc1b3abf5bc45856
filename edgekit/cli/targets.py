"""``edgekit targets``: the devices that can be built for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.forms import FORMS

if TYPE_CHECKING:
    from edgekit.profiles.devices import Device

EPILOG = """\b
Examples:
  edgekit targets
  edgekit targets --format onnx
  edgekit targets raspberry-pi-5-8gb                    its file, with the sources of its figures
  edgekit targets raspberry-pi-5-8gb > my-board.toml    to change it, and pass it as --target my-board.toml
"""


@click.command("targets", epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--format", "form", type=click.Choice(FORMS), help="Only those that take it.")
@click.option("--json", "as_json", is_flag=True, help="Print every figure as JSON.")
def command(name: str | None, form: str | None, as_json: bool) -> None:
    """List the devices that edgekit plans and builds for, or show NAME, one of them or a .toml file of yours."""
    import msgspec

    from edgekit.cli.output import print_json
    from edgekit.profiles import devices

    found = [devices.load(one) for one in ([name] if name else devices.names())]
    if form and not name:
        found = [one for one in found if ("gptq" if form == "awq" else form) in one.formats]
    if as_json:
        print_json(msgspec.to_builtins(found[0] if name else found))
    elif name:
        _show(name, found[0])
    else:
        _list(found)


def _list(found: list[Device]) -> None:
    from edgekit.cli.output import table

    rows = [
        [
            one.name,
            f"{one.architecture} {one.gpu.api if one.gpu else 'CPU'}",
            f"{one.budget_gb:g} GB",
            f"{(one.gpu and one.gpu.bandwidth_gb_s) or one.bandwidth_gb_s:,g}",
            f"{one.context:,}",
            f"{one.min_tps:g}",
            " ".join(one.formats),
        ]
        for one in found
    ]
    table(["target", "runs on", "budget", "GB/s", "context", "tok/s", "formats"], rows)
    click.echo(
        "\nbudget: what a model may take. GB/s: memory that it is read from. tok/s: the least acceptable."
    )
    click.echo("edgekit targets NAME shows one with its sources.")


def _show(name: str, device: Device) -> None:
    """The file as it is written, so that it can be copied; and what it comes to where it extends another."""
    import tomllib

    from edgekit.cli.output import printable, table
    from edgekit.files import read_text
    from edgekit.profiles import devices

    text = read_text(devices.source(name))
    click.echo(printable(text).rstrip("\n"))
    if "extends" in tomllib.loads(text):
        click.echo()
        table(["with what it extends", ""], [[key, value] for key, value in _figures(device)])


def _figures(device: Device) -> list[tuple[str, str]]:
    """Every key with its value."""
    import msgspec

    found = []
    for key, value in msgspec.to_builtins(device).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        found += [(f"{key}.{name}".rstrip("."), _text(one)) for name, one in inner if one is not None]
    return found


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"
