"""A real llama-server for tests: llama.cpp's own HTTP server, in a process of its own.

xllamacpp opens exactly the server that the program ``llama-server`` is: the same routes, the same
sampling, the same tokenizer. It is started with the packaged model, on one thread.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onbook.worker.model_file import packaged_model

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT = 2048
SLOTS = 2


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A running server. ``url`` is its base URL, ``key`` the bearer key that it wants."""

    url: str
    key: str | None


@contextmanager
def llama_server(
    *,
    key: str | None = None,
    chat_template: str | None = None,
    sampling: dict[str, object] | None = None,
    stop: list[str] | None = None,
    model: Path | None = None,
    port: int = 0,
) -> Iterator[LlamaServer]:
    """Run a server for the packaged model; skips the test where model or engine are missing.

    Args:
        key: Bearer key to demand.
        chat_template: In place of the model's own.
        sampling: Defaults of the server's samplers, by the names of llama.cpp's parameters.
        stop: Stop strings that the server adds to requests without any.
        model: In place of the packaged one.
        port: To listen on; 0 takes any.
    """
    path = model or packaged_model()
    if path is None:
        pytest.skip("the packaged model is not installed")
    pytest.importorskip("xllamacpp")
    options = {
        "path": str(path),
        "port": port,
        "key": key,
        "chat_template": chat_template,
        "sampling": sampling or {},
        "stop": stop or [],
    }
    process = subprocess.Popen(
        [sys.executable, __file__, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), "the llama-server did not start"
        yield LlamaServer(url, key)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def _serve(options: dict[str, object]) -> None:
    import xllamacpp  # noqa: PLC0415 - the tests import this file without loading llama.cpp

    make: Callable[[], xllamacpp.CommonParams] = xllamacpp.CommonParams
    params = make()
    params.model.path = options["path"]
    params.port = options["port"]
    params.n_ctx = CONTEXT * SLOTS
    params.n_parallel = SLOTS
    params.kv_unified = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    # As the engine in process computes, so that the same request gives the same text.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_batch = params.n_ubatch = 128
    params.verbosity = -1
    params.ui = False
    if options["key"]:
        params.api_keys = [options["key"]]
    if options["chat_template"]:
        params.chat_template = options["chat_template"]
    if options["stop"]:
        params.antiprompt = options["stop"]
    defaults = options["sampling"]
    assert isinstance(defaults, dict)
    for name, value in defaults.items():
        setattr(params.sampling, name, value)
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    # The server lives as long as the test that holds the other end of the pipe.
    sys.stdin.read()


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
