"""``onbook audit``: is the log what it was, and evidence for one answer."""

from pathlib import Path
from typing import Annotated

import typer

DataDirOption = Annotated[
    Path | None, typer.Option(help="Directory of the database and the keys [data].")
]
DatabaseOption = Annotated[
    str | None, typer.Option(help="URL of the database [the one in the data directory].")
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        help="A gateway's public key that you trust; repeat it for more. Later keys that it "
        "endorses are trusted too.",
    ),
]
TrustWorkerOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="Likewise a worker's, which its receipts are signed with."),
]
CheckpointOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Checkpoints that you kept elsewhere; repeat it for more files. They must be in the "
        "log as they are, and what they name too.",
    ),
]
TextsOption = Annotated[
    bool, typer.Option("--texts", help="Put the texts into the file too, with their salt.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

audit = typer.Typer(
    name="audit",
    help="Check the audit log, and export evidence for one answer.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@audit.command()
def verify(
    trust: TrustOption = None,
    trust_worker: TrustWorkerOption = None,
    checkpoint: CheckpointOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's way to declare a flag
    database_url: DatabaseOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Walk the whole audit log and name everything that is not as it was written.

    Chains, links, the signatures of groups and checkpoints, workers' receipts, texts that are
    still there, template versions and what happened to them. It only reads. Ends with 0 where the
    log is sound, 1 where something was found, 2 where it cannot be checked, or where nothing in
    it is signed.
    """
    from onbook.cli.audit_kept import kept_checkpoints  # noqa: PLC0415 - likewise
    from onbook.cli.audit_verify import verify_log  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise

    verify_log(
        settings_with(data_dir=data_dir, database_url=database_url),
        trust or [],
        trust_worker or [],
        kept_checkpoints(checkpoint or []),
        as_json=as_json,
    )


@audit.command()
def export(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="Which answer.")],
    texts: TextsOption = False,  # noqa: FBT002 - likewise
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it [standard output].")
    ] = None,
    database_url: DatabaseOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Write one file that proves one row of the audit log, without the database.

    Of other requests it holds digests only. It is sealed with the gateway's key in the data
    directory.
    """
    from onbook.cli.audit_proof import export_row  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise

    settings = settings_with(data_dir=data_dir, database_url=database_url)
    export_row(settings, request_id, with_texts=texts, to=output)


@audit.command("verify-proof")
def verify_proof(
    file: Annotated[Path, typer.Argument(help="What 'onbook audit export' wrote.")],
    trust: TrustOption = None,
    trust_worker: TrustWorkerOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - likewise
) -> None:
    """Check an exported proof: needs no database, no network and no data directory.

    Says what is proved, by which key, and what is not. Ends with 0 where the proof holds, 1 where
    it does not or its key is none of those named by --trust, 2 where the file is no proof.
    """
    from onbook.cli.audit_proof import check_proof  # noqa: PLC0415 - keeps --help fast

    check_proof(file, trust or [], trust_worker or [], as_json=as_json)


@audit.command()
def checkpoint(
    as_json: JsonOption = False,  # noqa: FBT002 - likewise
    database_url: DatabaseOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Sign the ends of all chains now, if they have moved since the last checkpoint.

    Keep what it prints where the database's administrators cannot write: it shows later that the
    end of the log is missing.
    """
    from onbook.cli.audit_proof import checkpoint_now  # noqa: PLC0415 - keeps --help fast
    from onbook.cli.options import settings_with  # noqa: PLC0415 - likewise

    checkpoint_now(settings_with(data_dir=data_dir, database_url=database_url), as_json=as_json)
