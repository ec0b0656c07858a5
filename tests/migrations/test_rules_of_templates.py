import pytest

from onbook.adapters.database.migrations.book_rules import RECORDED
from raw_book import (
    RawBook,
    Refused,
    edit,
    insert,
    the_epoch,
    the_events,
    the_row,
    the_versions,
)

OLD = "2020-01-01T00:00:00.000000+00:00"


def test_an_insert_is_recorded(book: RawBook) -> None:
    book.run(insert(change_reason="a start", version=7))
    assert the_row(book, "version, updated_by, change_reason, changed_epoch") == (
        (7, book.actor, "a start", 1)
    )
    assert the_versions(book, "version, author, reason, base_version, system_prompt, sampling") == [
        (7, book.actor, "a start", None, "Hello.", "{}")
    ]
    assert the_events(book, "action, actor, reason, from_version, to_version") == [
        ("created", book.actor, "a start", None, 7)
    ]
    assert the_row(book, "event_id") == the_events(book, "event_id")[0]


def test_an_insert_that_names_its_author_keeps_it_and_loses_a_hash_of_its_own(
    book: RawBook,
) -> None:
    book.run(insert(updated_by="alice", content_sha256="f" * 64))
    assert the_row(book, "updated_by, content_sha256") == ("alice", None)
    assert the_versions(book, "author, content_sha256") == [("alice", None)]
    assert the_events(book, "actor") == [(book.actor,)]


def test_a_change_of_any_recorded_column_makes_a_version(book: RawBook) -> None:
    changes = dict.fromkeys(RECORDED, "'other'") | {
        "use_case": "'generation'",
        "content_mode": "'nsfw'",
        "token_unit": "'clip'",
        "token_limit": "9",
        "max_tokens": "9",
        "examples_sent": "9",
        "sampling": "'{\"top_k\": 5}'",
        "examples": "'[1]'",
        "variables": "'[1]'",
        "tests": "'[1]'",
    }
    book.run(insert())
    for version, (column, changed) in enumerate(changes.items(), start=2):
        before = the_row(book, column)
        book.run(edit(f"{column} = {changed}"))
        assert the_row(book, "version, content_sha256") == (version, None), column
        assert the_versions(book, column)[-2:] == [before, the_row(book, column)]
        assert the_row(book, column) != before


def test_an_edit_that_forgets_the_version_gets_one(book: RawBook) -> None:
    book.run(insert())
    book.run("UPDATE prompt_templates SET system_prompt = 'Edited.'")
    assert the_row(book, "version, changed_epoch") == (2, 2)
    assert the_versions(book, "version, system_prompt, base_version") == [
        (1, "Hello.", None),
        (2, "Edited.", 1),
    ]
    assert the_events(book, "action, from_version, to_version")[1:] == [("activated", 1, 2)]


def test_an_edit_may_skip_versions_but_never_go_down(book: RawBook) -> None:
    book.run(insert())
    book.run("UPDATE prompt_templates SET version = 5, system_prompt = 'Edited.'")
    assert the_row(book, "version") == (5,)
    for version in (4, 0, -1):
        with pytest.raises(Refused, match="the version of a template never goes down"):
            book.run(edit(f"version = {version}, system_prompt = 'x'"))
    assert the_versions(book, "version") == [(1,), (5,)]
    assert len(the_events(book, "1")) == 2


def test_a_new_number_alone_makes_a_version(book: RawBook) -> None:
    book.run(insert())
    book.run("UPDATE prompt_templates SET version = version + 1")
    assert the_versions(book, "version, system_prompt") == [(1, "Hello."), (2, "Hello.")]


def _draft(book: RawBook, version: int, prompt: str, *, name: str = "mine") -> None:
    """Add a version for ``name`` that is like the row of "mine" but for its prompt."""
    columns = ", ".join(RECORDED)
    like = columns.replace("system_prompt", f"'{prompt}'")
    book.run(
        f"INSERT INTO prompt_template_versions (template_name, version, author, {columns})"  # noqa: S608 - names of ours
        f" SELECT '{name}', {version}, 'me', {like}"
        " FROM prompt_templates WHERE template_name = 'mine'"
    )


def test_a_draft_goes_live_under_its_number(book: RawBook) -> None:
    book.run(insert())
    _draft(book, 2, "Another draft.")
    _draft(book, 3, "Drafted.")
    book.run("UPDATE prompt_templates SET system_prompt = 'Drafted.', version = 3")
    assert the_row(book, "version") == (3,)
    assert the_versions(book, "version, author") == [(1, book.actor), (2, "me"), (3, "me")]


def test_an_edit_leaves_a_draft_with_the_next_number_alone(book: RawBook) -> None:
    book.run(insert())
    _draft(book, 2, "Drafted.")
    book.run("UPDATE prompt_templates SET system_prompt = 'Edited.', version = version + 1")
    assert the_row(book, "version") == (3,)
    assert the_versions(book, "version, system_prompt") == [
        (1, "Hello."),
        (2, "Drafted."),
        (3, "Edited."),
    ]


@pytest.mark.parametrize(
    ("prompt", "asked", "got"),
    [("Draft 2.", 2, 2), ("Draft 2.", 1, 4), ("Other.", 2, 4), ("Other.", 9, 9)],
)
def test_the_first_row_of_a_template_with_drafts(
    book: RawBook, prompt: str, asked: int, got: int
) -> None:
    book.run(insert())
    for version in (1, 2, 3):
        _draft(book, version, f"Draft {version}.", name="new")
    book.run(insert("new", target="mine", is_active=False, system_prompt=prompt, version=asked))
    assert the_row(book, "version", "new") == (got,)
    assert the_versions(book, "version, system_prompt, author", "new") == [
        (1, "Draft 1.", "me"),
        (2, "Draft 2.", "me"),
        (3, "Draft 3.", "me"),
        *([(got, prompt, book.actor)] if got > 3 else []),
    ]


@pytest.mark.parametrize("change", ["template_name = 'other'", "id = 'other'"])
def test_a_template_is_never_renamed(book: RawBook, change: str) -> None:
    book.run(insert())
    with pytest.raises(Refused, match="the name and the id of a template never change"):
        book.run(edit(change))


def test_each_kind_of_edit_has_its_event(book: RawBook) -> None:
    book.run(insert())
    for change in (
        "is_active = false, change_reason = 'out of date'",
        "system_prompt = 'Better.'",
        "is_active = true",
        "system_prompt = 'Best.', change_reason = 'once more', updated_by = 'bob'",
        "is_active = false, system_prompt = 'Last.'",
    ):
        book.run(edit(change))
    assert the_events(book, "action, actor, reason, from_version, to_version")[1:] == [
        ("deactivated", book.actor, "out of date", 1, None),
        ("drafted", book.actor, None, 1, 2),
        ("activated", book.actor, None, 2, 2),
        ("activated", book.actor, "once more", 2, 3),
        ("deactivated", book.actor, None, 3, None),
    ]
    assert the_versions(book, "author, reason")[2:] == [("bob", "once more"), (book.actor, None)]
    assert the_row(book, "updated_by, change_reason") == (book.actor, None)


def test_an_explained_change_is_recorded_once_and_as_it_is(book: RawBook) -> None:
    book.run(insert())
    book.run(
        "INSERT INTO template_events (event_id, template_name, action, actor, reason, to_version)"
        " VALUES ('e1', 'mine', 'activated', 'key:me', 'better', 2)"
    )
    book.run(
        edit(
            "system_prompt = 'Better.', version = 2, event_id = 'e1', updated_by = 'key:me',"
            f" change_reason = 'better', content_sha256 = '{'a' * 64}', updated_at = '{OLD}'"
        )
    )
    assert the_events(book, "actor") == [(book.actor,), ("key:me",)]
    assert the_row(book, "event_id, updated_by, change_reason, content_sha256") == (
        ("e1", "key:me", "better", "a" * 64)
    )
    (version,) = the_versions(book, "author, reason, content_sha256, created_at")[1:]
    assert version[:3] == ("key:me", "better", "a" * 64)
    assert version[3:] == the_row(book, "updated_at")
    # The same event does not explain a second change.
    book.run("UPDATE prompt_templates SET system_prompt = 'Raw.', event_id = 'e1'")
    assert the_events(book, "action, actor")[2:] == [("activated", book.actor)]
    assert the_row(book, "content_sha256, updated_by") == (None, book.actor)


def test_an_event_that_is_not_there_or_anothers_explains_nothing(book: RawBook) -> None:
    book.run(insert())
    book.run(insert("other"))
    ((theirs,),) = the_events(book, "event_id", "other")
    for event_id in (theirs, "none"):
        book.run(
            edit(
                f"system_prompt = '{event_id}', event_id = '{event_id}'",
                where="template_name = 'mine'",
            )
        )
        assert the_row(book, "event_id") == the_events(book, "event_id")[-1]
    assert len(the_events(book, "1")) == 3


def test_updated_at_is_stamped_unless_it_is_set(book: RawBook) -> None:
    book.run(insert())
    for change in ("system_prompt = 'x'", "is_active = false", "updated_by = 'me'"):
        book.run(edit(f"updated_at = '{OLD}'"))
        ((stamped,),) = book.rows("SELECT updated_at < '2021-01-01' FROM prompt_templates")
        assert stamped
        book.run(edit(change))
        ((stamped,),) = book.rows("SELECT updated_at > '2021-01-01' FROM prompt_templates")
        assert stamped, change


def test_what_matters_to_no_reader_leaves_no_trace(book: RawBook) -> None:
    book.run(insert(updated_at=OLD))
    for change in (
        f"content_sha256 = '{'a' * 64}'",
        "updated_by = 'me'",
        "system_prompt = system_prompt",
    ):
        book.run(edit(change))
    assert the_epoch(book) == 1
    assert the_row(book, "changed_epoch, version, content_sha256") == (1, 1, "a" * 64)
    assert len(the_events(book, "1")) == len(the_versions(book, "1")) == 1


def test_filling_in_a_hash_is_no_edit(book: RawBook) -> None:
    book.run(insert(updated_at=OLD))
    before = the_row(book, "updated_at, updated_by, event_id")
    book.run(edit(f"content_sha256 = '{'a' * 64}'"))
    assert the_row(book, "updated_at, updated_by, event_id") == before


def test_each_row_of_an_edit_gets_its_own_version_and_event(book: RawBook) -> None:
    for name in ("a", "b", "c"):
        book.run(insert(name))
    book.run("UPDATE prompt_templates SET system_prompt = 'All.', version = version + 1")
    (newest,) = book.rows("SELECT max(changed_epoch) FROM prompt_templates")
    assert newest == (the_epoch(book),)
    assert book.rows(
        "SELECT count(*), min(version), max(version) FROM prompt_templates WHERE changed_epoch > 3"
    ) == [(3, 2, 2)]
    assert len(set(book.rows("SELECT event_id FROM template_events"))) == 6


def test_a_template_is_never_deleted(book: RawBook) -> None:
    book.run(insert())
    with pytest.raises(Refused, match="deactivate a template instead of deleting it"):
        book.run("DELETE FROM prompt_templates")


def test_one_active_template_per_key(book: RawBook) -> None:
    book.run(insert(target=None))
    book.run(insert("twin", target=None, is_active=False))
    book.run(insert("wan", target="wan"))
    for statement in (
        insert("third", target=None),
        "UPDATE prompt_templates SET is_active = true WHERE template_name = 'twin'",
        "UPDATE prompt_templates SET target = '' WHERE template_name = 'wan'",
    ):
        with pytest.raises(Refused, match="another template is active") as caught:
            book.run(statement)
        assert "uq_prompt_templates_active_key" in str(caught.value)
    assert the_epoch(book) == 3


def test_changed_epoch_is_the_databases_own(book: RawBook) -> None:
    book.run(insert())
    with pytest.raises(Refused, match="changed_epoch is kept by the database"):
        book.run("UPDATE prompt_templates SET changed_epoch = 99")
    with pytest.raises(Refused, match="changed_epoch is kept by the database"):
        book.run("UPDATE prompt_templates SET system_prompt = 'x', changed_epoch = 0")


@pytest.mark.parametrize("conflict", ["DO NOTHING", "DO UPDATE SET system_prompt = 'Upserted.'"])
def test_an_upsert_records_what_it_did(book: RawBook, conflict: str) -> None:
    book.run(insert())
    book.run(insert(system_prompt="Ignored.") + f" ON CONFLICT (template_name) {conflict}")
    done = [] if "NOTHING" in conflict else [(2, "Upserted.")]
    assert the_versions(book, "version, system_prompt") == [(1, "Hello."), *done]
    assert len(the_events(book, "1")) == 1 + len(done)


def test_a_client_with_recursive_triggers_sees_no_difference(sqlite_book: RawBook) -> None:
    sqlite_book.run("PRAGMA recursive_triggers = ON")
    sqlite_book.run(insert())
    sqlite_book.run("UPDATE prompt_templates SET system_prompt = 'Edited.'")
    sqlite_book.run("UPDATE prompt_templates SET updated_by = 'me'")
    assert the_row(sqlite_book, "version, changed_epoch") == (2, 2)
    assert the_epoch(sqlite_book) == len(the_events(sqlite_book, "1")) == 2


def test_a_replacement_is_a_new_version(sqlite_book: RawBook) -> None:
    sqlite_book.run(insert())
    sqlite_book.run("UPDATE prompt_templates SET system_prompt = 'Edited.'")
    for prompt in ("Replaced.", "Hello."):
        sqlite_book.run(insert(system_prompt=prompt).replace("INSERT", "INSERT OR REPLACE"))
    assert the_row(sqlite_book, "version, system_prompt") == (4, "Hello.")
    assert the_versions(sqlite_book, "system_prompt") == [
        ("Hello.",),
        ("Edited.",),
        ("Replaced.",),
        ("Hello.",),
    ]


def test_a_replacement_takes_no_other_row_with_it(sqlite_book: RawBook) -> None:
    sqlite_book.run(insert(id="one"))
    with pytest.raises(Refused, match="the id of a template"):
        sqlite_book.run(insert("other", id="one").replace("INSERT", "INSERT OR REPLACE"))
    with pytest.raises(Refused, match="another template is active"):
        sqlite_book.run(insert("other", target="mine").replace("INSERT", "INSERT OR REPLACE"))
    for table in ("prompt_template_versions", "template_events"):
        with pytest.raises(Refused, match=r"never change|is never changed"):
            sqlite_book.run(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")  # noqa: S608 - names of ours
    assert the_row(sqlite_book, "id") == ("one",)
