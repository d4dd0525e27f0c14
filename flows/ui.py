"""`earshot ui`: the history of the home in a browser, and the server that workers and schedules need."""

import webbrowser
from typing import Annotated

import typer

ui_command = typer.Typer()


@ui_command.command("ui", epilog="Example:  earshot ui --port 4200")
def ui(
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Port of the loopback; by default any free one.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Show every run of this home: what ran, what was cached, tables, figures and cards. Ends with Ctrl-C.

    It is a whole Prefect server, offline and without analytics: with PREFECT_API_URL set to the address it prints,
    commands, workers and schedules run against it. Where PREFECT_API_URL is set already, that server's page is opened.
    """
    from flows.server import server

    with server(ui=True, port=port) as prefect:
        prefect.wait()
        page = prefect.url.removesuffix("/api")
        print(f"page       {page}\nserver     export PREFECT_API_URL={prefect.url}", flush=True)
        if browser:
            webbrowser.open(page)
        if prefect.process:
            prefect.process.wait()
