"""``onbook enhance``: one prompt, or a file of them."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from onbook.cli.enhance_run import Enhance
    from onbook.client import EnhanceFields
    from onbook.settings import Settings
    from onbook.wire.gateway_api import EnhanceResponse
    from onbook.wire.problem import Problem

_MAX_STDIN_BYTES: Final = 1024 * 1024

PromptArgument = Annotated[
    str | None, typer.Argument(help="The prompt; '-' reads it from standard input.")
]
FileOption = Annotated[
    Path | None, typer.Option("--file", help="Enhance each line of this UTF-8 file.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines of the results of --file [<file>.enhanced.jsonl]; a second "
        "run with the same two files goes on where the first one stopped."
    ),
]
VersionOption = Annotated[int | None, typer.Option(help="Version of --template [the live one].")]
VariablesOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A variable of the template as name=text, or name:=value for a number, true or "
        "false; repeat it for more."
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="ONBOOK_URL", help="Use the server at this URL."),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="ONBOOK_KEY",
        show_envvar=True,
        help="Access key for --url; better set it "
        "in the environment, where other users cannot see it.",
    ),
]


def enhance(
    prompt: PromptArgument = None,
    *,
    target: Annotated[str | None, typer.Option(help="Generator: sdxl, wan, or another.")] = None,
    job_type: Annotated[str | None, typer.Option(help="Job type, such as sdxl_image.")] = None,
    quality: Annotated[Literal["fast", "high"] | None, typer.Option(help="Quality.")] = None,
    content_type: Annotated[
        Literal["sfw", "nsfw"] | None, typer.Option(help="Content mode, instead of detection.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model type [qwen_instruct].")] = None,
    template: Annotated[str | None, typer.Option(help="Template by name.")] = None,
    template_version: VersionOption = None,
    var: VariablesOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed, for the same result again.")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt to add.")] = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail rather than do without the model.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    file: FileOption = None,
    output: OutputOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of the database and the keys [data].")
    ] = None,
) -> None:
    """Enhance a prompt, or a file of prompts, here or on a running server."""
    from onbook.cli.options import fail, settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.variables import read_variables  # noqa: PLC0415 - likewise

    if file is not None and prompt is not None:
        fail("give either a prompt or --file, not both.", code=2)
    if output is not None and file is None:
        fail("--output goes with --file; redirect the output of a single prompt.", code=2)
    text = None if file is not None else _read_prompt(prompt)
    settings = settings_with(data_dir=data_dir)
    _configure_logging(settings)
    fields: EnhanceFields = {
        "target": target,
        "job_type": job_type,
        "quality": quality,
        "content_type": content_type,
        "selected_model": model,
        "template_name": template,
        "template_version": template_version,
        "variables": read_variables(var or []),
        "seed": seed,
        "negative_prompt": negative,
        "allow_fallback": not no_fallback,
    }
    _run(_enhancer(settings, url, key), text, file, output, fields, settings, as_json=as_json)


def _run(
    enhancer: "AbstractAsyncContextManager[Enhance]",
    text: str | None,
    file: Path | None,
    output: Path | None,
    fields: "EnhanceFields",
    settings: "Settings",
    *,
    as_json: bool,
) -> None:
    from onbook.cli.options import fail  # noqa: PLC0415 - keeps --help fast

    try:
        if text is not None:
            _single(enhancer, text, fields, as_json=as_json)
        elif file is not None:
            from onbook.cli.enhance_file import enhance_file  # noqa: PLC0415 - keeps --help fast

            enhance_file(
                enhancer, file, output, fields, concurrency=settings.slots, as_json=as_json
            )
    except KeyboardInterrupt:
        fail("stopped.", code=130)


def _single(
    enhancer: "AbstractAsyncContextManager[Enhance]",
    prompt: str,
    fields: "EnhanceFields",
    *,
    as_json: bool,
) -> None:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from onbook.cli.enhance_output import show  # noqa: PLC0415 - likewise
    from onbook.cli.enhance_run import EnhanceFailed  # noqa: PLC0415 - likewise
    from onbook.cli.terminal import console  # noqa: PLC0415 - likewise

    try:
        response = asyncio.run(_once(enhancer, prompt, fields))
    except EnhanceFailed as error:
        _fail_with(error.problem, as_json=as_json)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(response) + b"\n")
        sys.stdout.buffer.flush()
    else:
        show(response, console())


async def _once(
    enhancer: "AbstractAsyncContextManager[Enhance]", prompt: str, fields: "EnhanceFields"
) -> "EnhanceResponse":
    async with enhancer as run:
        return await run(prompt, fields)


def _enhancer(
    settings: "Settings", url: str | None, key: str | None
) -> "AbstractAsyncContextManager[Enhance]":
    from onbook.cli.enhance_run import in_process, over_http  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import fail  # noqa: PLC0415 - likewise

    if url:
        try:
            return over_http(url, key or None, worker_timeout_s=settings.worker_timeout_s)
        except ValueError as error:
            fail(str(error), code=2)
    return in_process(settings, say)


def _fail_with(problem: "Problem", *, as_json: bool) -> NoReturn:
    import msgspec  # noqa: PLC0415 - keeps --help fast

    from onbook.cli.options import fail  # noqa: PLC0415 - likewise

    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(problem) + b"\n")
        sys.stdout.buffer.flush()
    fail(f"{problem.error} {problem.suggested_action}{_choices(problem)}")


def _choices(problem: "Problem") -> str:
    """Return what may be given instead, where the error says so."""
    for name in ("valid_job_types", "registered"):
        choices = (problem.details or {}).get(name)
        if isinstance(choices, list):
            return f" ({', '.join(map(str, choices))})"
    return ""


def _read_prompt(prompt: str | None) -> str:
    """Return the prompt from the argument or from standard input; ends with 2 on misuse."""
    from onbook.cli.options import fail  # noqa: PLC0415 - keeps --help fast

    if prompt is not None and prompt != "-":
        try:
            return os.fsencode(prompt).decode("utf-8")
        except UnicodeDecodeError:
            fail("the prompt is not UTF-8.", code=2)
    if prompt is None and sys.stdin.isatty():
        fail("give a prompt, '-' for standard input, or --file.", code=2)
    data = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(data) > _MAX_STDIN_BYTES:
        fail("standard input is over 1 MiB; use --file for many prompts.", code=2)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        fail("standard input is not UTF-8.", code=2)
    return text.removesuffix("\n").removesuffix("\r")


def _configure_logging(settings: "Settings") -> None:
    from onbook.adapters.telemetry.logs import configure_logging  # noqa: PLC0415 - see above

    # What went wrong is in the answer and its warnings; a log beside it would say it twice.
    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings.log_level if chosen else "error", settings.log_format)


def say(text: str) -> None:
    """Tell the person at the terminal; standard output is for the result alone."""
    typer.echo(text, err=True)
