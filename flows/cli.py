"""The command line: `earshot run study/demo` and everything around it."""

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flows.arguments import DryRun, On, Overrides, Refresh, Study
from flows.ask import predict_command
from flows.audit import audit_command
from flows.compare import compare_command
from flows.fetch import fetching
from flows.lineage import lineage_command
from flows.power import power_command
from flows.report import report_command
from flows.stages import Runner, Stage
from flows.tools import print_plan, tools
from flows.ui import ui_command

if TYPE_CHECKING:
    from flows.run_study import StudyRun
    from recipes.schema import StudyRecipe
    from tasks.store import PromptReport

R = TypeVar("R")

app = typer.Typer(
    name="earshot",
    help="Fine-tune an audio LLM to hear speech in very short, very noisy clips, and report only what survives an audit.",
    epilog="Start here:  earshot run study/demo",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(tools)
app.add_typer(audit_command)
app.add_typer(report_command)
app.add_typer(predict_command)
app.add_typer(compare_command)
app.add_typer(power_command)
app.add_typer(fetching)
app.add_typer(lineage_command)
app.add_typer(ui_command)


def say_version(asked: bool) -> None:
    """The version that is installed, and out."""
    if asked:
        from importlib.metadata import version

        print(f"earshot {version('earshot')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say the version and exit.")
    ] = False,
) -> None:
    """Where nobody asked for anything, what there is to ask for."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def command(name: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command with an example under its help and with errors as sentences: exit 2 for bad input, 1 for a
    check that failed."""
    return app.command(name, epilog=f"Example:  {example}")


def main() -> None:
    """Run the command line; a user's mistake is a sentence, never a traceback."""
    # Our matrices are small: threads that wait for one another cost more than they bring. Read when numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from recipes.schema import CheckFailed

    try:
        sys.exit(app(standalone_mode=False))  # a number where an interrupt ended it before anything ran
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except CheckFailed as error:
        fail(str(error), 1)
    except (ValueError, FileNotFoundError, TimeoutError) as error:
        fail(str(error), 2)
    except OSError as error:
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own: unknown option, missing argument
            fail(error.format_message(), 2)
        from flows.server import absence

        if said := absence(error):
            fail(said, 2)
        raise
    finally:
        gc.freeze()  # else the interpreter goes through all that was imported before it leaves


def fail(message: str, code: int) -> None:
    """The message on standard error, and out."""
    print(f"earshot: {message}", file=sys.stderr)
    sys.exit(code)


# --- studies -----------------------------------------------------------------------------------------------------


@command("run", "earshot run study/demo --set train.seeds=[42,123]")
def run(
    study: Study, overrides: Overrides = None, refresh: Refresh = None, dry_run: DryRun = False, runner: On = "local"
) -> None:
    """Run a whole study: data set, adapters, report, model card, published in the home's hub.

    A recipe of `adapters`, such as study/compare-all, is a leaderboard: published detectors, paired on their test clips.
    """
    from recipes.leaderboard import is_leaderboard

    if is_leaderboard(study) and not dry_run:
        from recipes.leaderboard import load_leaderboard
        from tasks.report_series import make_leaderboard

        print("\n".join(make_leaderboard(load_leaderboard(study, overrides or []))))
        return
    go(study, overrides, "publish", dry_run, refresh, runner)


@command("build", "earshot build study/demo")
def build(study: Study, overrides: Overrides = None, dry_run: DryRun = False, runner: On = "local") -> None:
    """Build, audit and publish a study's data set."""
    go(study, overrides, "build", dry_run, runner=runner)


@command("train", "earshot train study/demo --set train.training.max_steps=400")
def train(study: Study, overrides: Overrides = None, dry_run: DryRun = False, runner: On = "local") -> None:
    """Run a study up to its adapters."""
    go(study, overrides, "train", dry_run, runner=runner)


@command("evaluate", "earshot evaluate study/demo --limit 40")
def evaluate(
    study: Study,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    runner: On = "local",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="A quick look at N clips of each part, marked as such; short for "
                     "--set evaluate.limit=N."),
    ] = None,
) -> None:  # fmt: skip
    """Run a study up to its report."""
    overrides = [*(overrides or []), *([f"evaluate.limit={limit}"] if limit else [])]
    go(study, overrides, "evaluate", dry_run, runner=runner)


@command("prompts", "earshot prompts study/demo --set search=prompt/opro")
def prompts(study: Study, overrides: Overrides = None, refresh: Refresh = None, dry_run: DryRun = False) -> None:
    """Search for the prompt that asks a study's base and adapter best: on dev, judged on dev groups that took no part.

    Runs the study up to its adapters, then `search` of its recipe (by default prompt/racing). Ends with the gain, its
    interval, what chance alone would promise, and for each model a file that --set evaluate.prompt=FILE takes.
    """
    if dry_run:
        from flows.optimize_prompt import plan_prompts

        print("\n".join(plan_prompts(study, overrides or [], refresh)))
        return

    def load() -> "Callable[[], PromptReport]":
        from flows.optimize_prompt import optimize_prompt

        return lambda: optimize_prompt(study, overrides or [], refresh)

    report = served(study, overrides, "train", load)
    from tasks.prompts import prompt_summary  # not before: what imports Prefect settles where it logs and what it asks

    print("\n".join(prompt_summary(report)))


@command("publish", "earshot publish study/demo")
def publish(study: Study, overrides: Overrides = None, dry_run: DryRun = False, runner: On = "local") -> None:
    """Run a study up to its published card; the same as `run`."""
    go(study, overrides, "publish", dry_run, runner=runner)


@command("verify", "earshot verify earshot/demo-adapter")
def verify(
    repo: Annotated[
        str, typer.Argument(help="NAMESPACE/NAME[@sha] in the home or on the Hub, or a folder.", metavar="REPO")
    ],
    rescore: Annotated[
        int,
        typer.Option(
            "--rescore",
            min=0,
            metavar="N",
            help="Of an adapter: also load it and ask N published test clips again (needs torch, no GPU).",
        ),
    ] = 0,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", help="With --rescore: a folder with the adapter's base, where that is not at hand by name."
        ),
    ] = None,
) -> None:
    """Recompute what a published adapter, data set or base says from what it holds and compare; exit 1 on a difference.

    equal: recomputed and the same. differs: not the same. recorded: written down by the run, with the evidence that is
    published beside it; it cannot be recomputed from the repository alone.
    """
    from tasks.verification import verify_repo

    parts = differences = 0
    for finding in verify_repo(repo, rescore, base):
        print(f"{finding.verdict:9} {finding.what}", flush=True)
        parts += 1
        differences += finding.verdict == "differs"
    if differences:
        fail(f"{differences} of {parts} parts differ from what can be recomputed", 1)
    print(f"verified: everything that can be recomputed is equal ({repo})")


def go(
    study: str,
    overrides: list[str] | None,
    until: Stage,
    dry_run: bool = False,
    refresh: Stage | None = None,
    runner: Runner = "local",
) -> None:
    """Run a study up to a stage and say what came of it; as a dry run only say what would run."""
    if dry_run:
        print_plan(study, overrides, until, refresh)
    else:
        finish(run_until(study, overrides, until, refresh, runner))


def run_until(
    study: str, overrides: list[str] | None, until: Stage, refresh: Stage | None = None, runner: Runner = "local"
) -> "StudyRun":
    """Run a study up to a stage."""

    def load() -> "Callable[[], StudyRun]":
        from flows.run_study import run_study

        return lambda: run_study(study, overrides or [], until, refresh, runner)

    return served(study, overrides, until, load)


def served(study: str, overrides: list[str] | None, until: Stage, load: Callable[[], Callable[[], R]]) -> R:
    """Check the recipe, then run the flow that `load` imports against a Prefect server, one command at a time on a home."""
    from flows.server import HEARTBEAT_S, server, wait_until_stored
    from recipes.schema import load_study
    from tasks.hub import published_recipe

    recipe = load_study(study, overrides or [], published_recipe)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with only_command(study), server() as prefect, warm(recipe, until) as warm_up:
        gc.disable()  # while so much is imported, collections only take time
        flow = load()
        from tasks.cache import when_not_served

        gc.enable()
        when_not_served.append(warm_up)
        prefect.wait()
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        from tasks.run_page import asked_for, ended, print_progress

        print_progress()
        begin = time.monotonic()
        # Nobody looks for silent runs on a server that leaves with its command.
        with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None if prefect.process else HEARTBEAT_S}):
            stored = ended
            try:
                result = flow()
                stored = asked_for
            except KeyboardInterrupt:
                fail(
                    f"stopped after {len(ended())} task runs; what they made is kept, the same command goes on from there",
                    130,
                )
            finally:
                wait_until_stored(stored())
        print(f"{study}: {len(stored())} task runs in {time.monotonic() - begin:.1f} s", file=sys.stderr)
    return result


@contextlib.contextmanager
def warm(recipe: "StudyRecipe", until: Stage) -> Iterator[Callable[[], None]]:
    """Inside, the process that imports what jobs on a CPU need: at once in an empty home, else by a call of what this
    yields."""
    from tasks import forkserver
    from tasks.models.jobs import warm_up
    from tasks.store import home

    needed = until != "build" and (recipe.train.device == "cpu" or recipe.train.base == "tiny")
    if needed and not (home() / "store").exists():
        warm_up()
    try:
        yield warm_up if needed else lambda: None
    finally:
        forkserver.stop()


@contextlib.contextmanager
def only_command(what: str) -> Iterator[None]:
    """Hold the home's lock, which the kernel frees when this process dies; wait, saying for whom, while another does."""
    from filelock import FileLock, Timeout

    from tasks.store import make_home, sweep

    home = make_home()
    lock, holder = FileLock(home / "lock"), home / "lock.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        name = ""
        with contextlib.suppress(FileNotFoundError):  # it is just coming, or leaving
            name = holder.read_text(encoding="utf-8")
        print(f"waiting for {name or 'another command'} to finish on {home}", file=sys.stderr)
        lock.acquire()
    try:
        holder.write_text(f"{what} (pid {os.getpid()})", encoding="utf-8")
        sweep()
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def finish(result: "StudyRun") -> None:
    """The short table, where things lie, and how to check them."""
    from tasks.hub import pull
    from tasks.reports import summary
    from tasks.store import timing_folder

    data = result.data.publication
    if result.report is None:
        print(f"data set   {data.repo}@{data.sha}\n           {pull('dataset', data.repo, data.sha)}")
    if result.folds and result.report is None:
        for adapter in (adapter for fold in result.folds for adapter in fold.adapters):
            print(
                f"adapter    seed {adapter.seed}, fold {adapter.fold}: train {adapter.train_accuracy:.3f}, {adapter.path}"
            )
    if result.report:
        print(summary(result.report))
        print(f"\nreport     {result.report.path / 'report.html'}")
        if (times := timing_folder(result.report)).is_dir():
            print(f"times      {times / 'accuracy_by_latency.csv'}")
    if published := result.publication:
        folder = pull("model", published.repo, published.sha)
        print(f"card       {folder / 'README.md'}\nverify     earshot verify {published.repo}@{published.sha}")


def _interrupt(number: int, frame: FrameType | None) -> Any:
    from tasks import child

    child.end_all()  # Prefect's threads wait for them, and the main thread for those
    raise KeyboardInterrupt


def tell_whole_sentences() -> None:
    """In the list of commands each has its whole first sentence, which click would cut."""
    groups = (app, *(group.typer_instance for group in app.registered_groups if group.typer_instance))
    for one in (one for group in groups for one in group.registered_commands):
        sentence, _, _ = " ".join((one.callback.__doc__ or "").split("\n\n")[0].split()).partition(". ")
        one.short_help = f"{sentence.rstrip('.')}."


tell_whole_sentences()

if __name__ == "__main__":
    main()
