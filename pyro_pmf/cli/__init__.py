"""The command line, `pyro-pmf`: fit a file of ratings, and ask the saved posterior."""

from __future__ import annotations


def main() -> None:
    """Run the command line: exit code 2 and one line where the input is at fault."""
    try:
        from pyro_pmf.cli.answers import as_lines
        from pyro_pmf.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        raise SystemExit(f"{error}: pip install 'pyro-pmf[cli]' brings it.") from error
    with as_lines():
        app(prog_name="pyro-pmf")
