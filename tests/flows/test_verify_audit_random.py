from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from onbook.adapters.database.log_rows import ROW_COLUMNS
from onbook.adapters.memory.audit_trail import MemoryAuditTrail
from onbook.ports.audit import AuditedRow
from support_audit import Log, filled, memory_log


def stored(log: Log) -> list[AuditedRow]:
    assert isinstance(log.trail, MemoryAuditTrail)
    return log.trail.stored


def other(value: object, draw: st.DataObject) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ (1 << draw.draw(st.integers(0, 20)))
    if isinstance(value, float):
        return value + 0.125
    if isinstance(value, str) and value:
        place = draw.draw(st.integers(0, len(value) - 1))
        bit = 1 << draw.draw(st.integers(0, 6))
        return value[:place] + chr(ord(value[place]) ^ bit) + value[place + 1 :]
    return "x"


@settings(max_examples=120, deadline=None)
@given(data=st.data())
async def test_random_edits_are_found_at_their_rows(data: st.DataObject) -> None:
    log = await filled(memory_log())
    rows = stored(log)
    numbers = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True))
    touched = set()
    for number in numbers:
        row = rows[number]
        name = data.draw(st.sampled_from(ROW_COLUMNS))
        value = other(row.content[name], data)
        rows[number] = replace(row, content={**row.content, name: value})
        touched.add((row.chain_id, row.seq))
    changed = {
        (item.chain_id, item.seq) for item in (await log.check())[0] if item.kind == "row_changed"
    }
    assert changed == touched


@settings(max_examples=80, deadline=None)
@given(data=st.data())
async def test_random_shuffles_are_found(data: st.DataObject) -> None:
    log = await filled(memory_log())
    rows = stored(log)
    before = sorted((str(row.chain_id), row.seq or 0, row.request_id) for row in rows)
    for _ in range(data.draw(st.integers(1, 3))):
        one, two = (data.draw(st.integers(0, len(rows) - 1)) for _ in range(2))
        match data.draw(st.sampled_from(["delete", "swap", "copy"])):
            case "delete":
                del rows[one]
            case "swap":
                a, b = rows[one], rows[two]
                rows[one], rows[two] = replace(a, content=b.content), replace(b, content=a.content)
            case _:
                rows.append(replace(rows[one], seq=rows[two].seq))
    after = sorted((str(row.chain_id), row.seq or 0, row.request_id) for row in rows)
    assert ((await log.check())[0] == []) == (before == after)
