"""A file of prompts, one per line: resumable, each result on disk before the next one is shown."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onbook.cli.enhance_results import ResultsFile, ResultsUnusable
from onbook.cli.enhance_run import Enhance, EnhanceFailed
from onbook.cli.options import fail
from onbook.client import EnhanceFields

# Without a progress bar, about so many lines tell how far it is.
_REPORTS: Final = 20


@dataclass(frozen=True, slots=True)
class PromptLine:
    """One prompt of the file; ``number`` counts all lines from 1."""

    number: int
    prompt: str

    @property
    def sha256(self) -> str:
        """The digest that the result is found again by."""
        return sha256(self.prompt.encode()).hexdigest()


@dataclass(slots=True)
class Tally:
    """How far a run is."""

    total: int
    skipped: int
    enhanced: int = 0
    without_model: int = 0
    failed: int = 0


class FileUnreadable(Exception):
    """The file of prompts cannot be used; the message is one sentence."""


def read_prompts(path: Path) -> list[PromptLine]:
    """Return the lines of ``path`` that are not blank.

    Raises:
        FileUnreadable: it cannot be read, or a line is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be read: {error.strerror}.") from None
    prompts: list[PromptLine] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            prompt = raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise FileUnreadable(
                f"line {number} of {path} is not UTF-8 (byte {error.start + 1}); convert the file."
            ) from None
        if prompt.strip():
            prompts.append(PromptLine(number, prompt))
    return prompts


def enhance_file(
    enhancer: AbstractAsyncContextManager[Enhance],
    path: Path,
    output: Path | None,
    fields: EnhanceFields,
    *,
    concurrency: int,
    as_json: bool,
) -> None:
    """Enhance what is not done yet, and end the program with 1 if any prompt failed."""
    output = output or path.with_name(path.name + ".enhanced.jsonl")
    try:
        prompts = read_prompts(path)
        results = ResultsFile(output, not_this=path)
    except (FileUnreadable, ResultsUnusable) as error:
        fail(str(error))
    if results.repaired:
        _say(f"The last line of {output} was incomplete; it will be written anew.")
    todo = [line for line in prompts if (line.number, line.sha256) not in results.done]
    tally = Tally(total=len(prompts), skipped=len(prompts) - len(todo))
    if tally.skipped:
        _say(f"{tally.skipped} of {tally.total} prompts are done already.")
    try:
        with results:
            if todo:
                with _reporting(tally, bar=not as_json and sys.stderr.isatty()) as report:
                    asyncio.run(_run(enhancer, todo, fields, results, tally, report, concurrency))
    except EnhanceFailed as error:
        _stopped(tally, output, f"{error.problem.error} {error.problem.suggested_action}")
    except ResultsUnusable as error:
        _stopped(tally, output, str(error))
    except KeyboardInterrupt:
        _stopped(tally, output, "stopped.", code=130)
    _say(f"{_summary(tally)} -> {output}")
    if as_json:
        summary = {
            "output": str(output),
            "total": tally.total,
            "skipped": tally.skipped,
            "enhanced": tally.enhanced,
            "without_model": tally.without_model,
            "failed": tally.failed,
        }
        typer.echo(json.dumps(summary))
    if tally.failed:
        _say("Run the same command again to retry what failed.")
        raise typer.Exit(1)


async def _run(
    enhancer: AbstractAsyncContextManager[Enhance],
    todo: list[PromptLine],
    fields: EnhanceFields,
    results: ResultsFile,
    tally: Tally,
    report: Callable[[], None],
    concurrency: int,
) -> None:
    remaining = iter(todo)
    async with enhancer as enhance:

        async def work() -> None:
            # The workers share one iterator: whoever is free takes the next line.
            for line in remaining:
                record = await _record(enhance, line, fields)
                await asyncio.to_thread(results.append, record)
                if record["success"]:
                    tally.enhanced += 1
                    tally.without_model += _is_without_model(record)
                else:
                    tally.failed += 1
                report()

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(todo)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _record(enhance: Enhance, line: PromptLine, fields: EnhanceFields) -> dict[str, object]:
    answer: object
    try:
        answer = await enhance(line.prompt, fields)
    except EnhanceFailed as error:
        if error.for_all:
            raise
        answer = error.problem
    return {"line": line.number, "prompt_sha256": line.sha256, **_plain(answer)}


def _plain(answer: object) -> dict[str, object]:
    return msgspec.convert(msgspec.to_builtins(answer), dict[str, object])


@contextmanager
def _reporting(tally: Tally, *, bar: bool) -> Iterator[Callable[[], None]]:
    """Give what is called after each prompt: a bar on a terminal, else a line now and then."""
    todo = tally.total - tally.skipped
    if not bar:
        every = -(-todo // _REPORTS)

        def report() -> None:
            finished = tally.enhanced + tally.failed
            if finished % every == 0 or finished == todo:
                _say(f"{finished} of {todo} prompts, {tally.failed} failed")

        yield report
        return
    columns = (
        TextColumn("Enhancing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=todo, failed=0)
        yield lambda: progress.update(
            task, completed=tally.enhanced + tally.failed, failed=tally.failed
        )


def _stopped(tally: Tally, output: Path, why: str, *, code: int = 1) -> NoReturn:
    _say(f"{_summary(tally)} -> {output}")
    fail(f"{why} Run the same command again to go on with the rest.", code=code)


def _is_without_model(record: Mapping[str, object]) -> bool:
    return record.get("enhancement_strategy") in ("rules", "passthrough")


def _summary(tally: Tally) -> str:
    without = f" ({tally.without_model} without a model)" if tally.without_model else ""
    return f"{tally.enhanced} enhanced{without}, {tally.failed} failed, {tally.skipped} done before"


def _say(text: str) -> None:
    typer.echo(text, err=True)
