from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import Running, running, settings_for


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(settings_for(tmp_path)) as started:
        yield started
