"""The commands of ``onbook templates`` that read and write files: their options."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from onbook.cli.templates_options import (
    MAX_VERSION,
    AuthorOption,
    DataDirOption,
    JsonOption,
    OverrideOption,
    ReasonOption,
)

Unit = Literal["clip", "umt5", "model", "chars"]

# As the packaged templates have them: what the readers of these targets can take.
_LIMITS: Final[dict[str, tuple[int, Unit]]] = {"sdxl": (75, "clip"), "wan": (100, "umt5")}
_LIMIT: Final[tuple[int, Unit]] = (200, "model")

PathsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Files, or directories of them; '-' is stdin."),
]
FormatOption = Annotated[
    Literal["toml", "langfuse", "dotprompt", "openai"] | None,
    typer.Option("--format", help="Format of the files [told from each file]."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
]
ActivateOption = Annotated[
    bool, typer.Option("--activate", help="Make each draft live, once its tests pass.")
]
RebaseOption = Annotated[
    bool,
    typer.Option(
        "--rebase", help="Take the files over whatever is live; their version lines are ignored."
    ),
]
ModelTypeOption = Annotated[
    str, typer.Option(help="For files that name none, as those of other systems.")
]
UseCaseOption = Annotated[
    Literal["enhancement", "chat", "generation", "playground"], typer.Option(help="Likewise.")
]
ContentModeOption = Annotated[Literal["sfw", "nsfw"], typer.Option(help="Likewise.")]
TargetOption = Annotated[str | None, typer.Option(help="Likewise; universal without it.")]
TokenLimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Likewise: the reader's limit [sdxl 75, wan 100, else 200]."),
]
TokenUnitOption = Annotated[
    Unit | None, typer.Option(help="Likewise: its unit [sdxl clip, wan umt5, else model].")
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=32_768,
        help="The writer's limit, whatever a file says [the file's, else 3 x the reader's].",
    ),
]
TemplateNameOption = Annotated[
    str | None, typer.Option(help="Name of the template [the file's own]; for one file.")
]
UserVariableOption = Annotated[
    str | None, typer.Option(help="Variable of the file that carries the user's text.")
]
CompletionOption = Annotated[
    bool, typer.Option("--completion", help="Make templates for a base model.")
]

# What a command needs is imported inside it, so that `onbook --help` does not wait for it.


def export(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names of templates; without one, all of them."),
    ] = None,
    *,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Write <name>.toml files into this directory.")
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_VERSION, help="This version instead of the live one."),
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write templates as files, one each; a single one goes to standard output without --dir."""
    from onbook.cli.options import settings_with  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.templates_export import export as run  # noqa: PLC0415 - likewise

    run(settings_with(data_dir=data_dir), names or [], directory, version)


def import_files(
    paths: PathsArgument,
    *,
    file_format: FormatOption = None,
    dry_run: DryRunOption = False,
    activate: ActivateOption = False,
    rebase: RebaseOption = False,
    override: OverrideOption = None,
    model_type: ModelTypeOption = "qwen_instruct",
    use_case: UseCaseOption = "enhancement",
    content_mode: ContentModeOption = "sfw",
    target: TargetOption = None,
    token_limit: TokenLimitOption = None,
    token_unit: TokenUnitOption = None,
    max_tokens: MaxTokensOption = None,
    name: TemplateNameOption = None,
    user_variable: UserVariableOption = None,
    completion: CompletionOption = False,
    reason: ReasonOption = None,
    author: AuthorOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Store files of this or other systems as drafts; all are checked before one is written."""
    from onbook.adapters.template_formats import source  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise
    from onbook.cli.templates_import import import_files as run  # noqa: PLC0415 - likewise

    _refuse(
        (dry_run and activate, "give either --dry-run or --activate, not both."),
        (override is not None and not activate, "--override goes with --activate."),
        (name is not None and len(paths) > 1, "--name goes with a single file."),
    )
    usual, unit = _LIMITS.get(target or "", _LIMIT)
    defaults = source.ImportDefaults(
        model_type=model_type,
        use_case=use_case,
        content_mode=content_mode,
        target=target,
        token_limit=token_limit or usual,
        token_unit=token_unit or unit,
        max_tokens=max_tokens or min(3 * (token_limit or usual), 32_768),
        max_tokens_wins=max_tokens is not None,
        template_name=name,
        user_variable=user_variable,
        completion=completion,
    )
    run(
        settings_with(data_dir=data_dir),
        paths,
        file_format=file_format,
        defaults=defaults,
        dry_run=dry_run,
        activate=activate,
        rebase=rebase,
        override=override,
        reason=reason,
        author=author,
        as_json=as_json,
    )


def _refuse(*mixtures: tuple[bool, str]) -> None:
    """End with 2 and the sentence of the first that is true."""
    from onbook.cli.options import fail  # noqa: PLC0415 - keeps --help fast

    for mixed, why in mixtures:
        if mixed:
            fail(why, code=2)
