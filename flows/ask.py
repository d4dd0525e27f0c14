"""`earshot predict`: what a published adapter says of anybody's audio."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import pandas as pd

predict_command = typer.Typer()
Format = Literal["table", "jsonl", "csv", "parquet", "rttm"]
NAMED = 5  # files that could not be asked


@predict_command.command(
    "predict",
    epilog="Example:  earshot predict earshot/demo-adapter clip.wav 'more/*.flac' --format jsonl",
)
def predict(
    adapter: Annotated[
        str,
        typer.Argument(help="A published adapter: NAMESPACE/NAME[@sha] in the home or on the Hub, or its folder.",
                       metavar="ADAPTER", show_default=False),
    ],
    audio: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs; - for a recording, or a list of paths, on standard input.",
                       metavar="AUDIO...", show_default=False),
    ],
    form: Annotated[Format, typer.Option("--format", help="How the answers are written.")] = "table",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where they are written; by default standard output.")
    ] = None,
    window_ms: Annotated[
        float | None, typer.Option("--window-ms", help="Ask windows of so many ms, joined to segments: for long files.")
    ] = None,
    hop_ms: Annotated[
        float | None, typer.Option("--hop-ms", help="From one window to the next; by default half a window.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="A folder with the adapter's base, where that is not at hand by its name.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the model runs.")] = "auto",
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Another prompt than the card's: a text, or a file of `earshot prompts`.")
    ] = None,
) -> None:  # fmt: skip
    """Say of every file whether it holds speech: path, label, p_speech, duration, warnings.

    p_speech is calibrated where the adapter's card has a temperature. A warning stands where a clip lies outside what
    the card was measured on. A file that is not there or cannot be asked has an error instead of a label; the others
    are answered, and the command ends with 1. Digital silence, a file or a window of one, holds no SPEECH and is
    answered so without asking the model, with a warning that says it. RTTM holds the segments of the first class,
    with its name where RTTM has a speaker's.

    A long file: earshot predict ADAPTER talk.wav --window-ms 500 --hop-ms 100 --format rttm.
    From a pipe: cat clip.wav | earshot predict ADAPTER -
    """
    if form == "rttm" and window_ms is None:
        raise ValueError("--format rttm holds segments: give --window-ms, e.g. --window-ms 500 --hop-ms 100")
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise ValueError("--format parquet is not for a terminal: give --out FILE")
    demand_place(out)
    from tasks.answers import predict as answers
    from tasks.answers import written

    table = answers(adapter, audio, window_ms=window_ms, hop_ms=hop_ms, base=base, device=device, prompt=prompt)
    put(written(table, form), out)
    if form == "rttm" and (said := none_found(table)):
        print(f"earshot: {said}", file=sys.stderr)
    if table["error"].notna().any():
        print(f"earshot: {unasked(table, form)}", file=sys.stderr)
        raise typer.Exit(1)


def demand_place(out: Path | None) -> None:
    """Raise FileNotFoundError or ValueError where no file can be written there: before anything is asked."""
    if out is None:
        return
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file in it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent.absolute()}; make it first")


def put(content: bytes, out: Path | None) -> None:
    """The answers into their file, whole or not at all, or to standard output."""
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    draft = out.with_name(f".{out.name}.draft")
    draft.write_bytes(content)
    draft.replace(out)


def none_found(table: "pd.DataFrame") -> str:
    """That no file that was asked has a segment of the first class; "" where one has, or none was asked."""
    files, first = table.loc[table["error"].isna(), "path"].nunique(), table.attrs["classes"][0]
    if not files or (table["label"] == first).any():
        return ""
    return f"0 segments of {first} in {files} {'file' if files == 1 else 'files'}"


def unasked(table: "pd.DataFrame", form: Format) -> str:
    """How many files could not be asked, the first of them with their errors."""
    bad = table[table["error"].notna()]
    named = [f"{path}: {error}" for path, error in zip(bad["path"], bad["error"], strict=True)]
    more = f"; and {len(named) - NAMED} more, see {'their remarks' if form == 'table' else '`error`'}"
    said = f"{len(bad)} of {table['path'].nunique()} files could not be asked: {'; '.join(named[:NAMED])}"
    return said + (more if len(named) > NAMED else "")
