"""A fast worker for measuring gateways: it repeats the user's words and adds a fixed tail.

Without ``--receipt`` it answers as a worker that gives none. With it, the worker's own renderer
and signer make a true receipt, so that the gateway's check of it is measured too.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, cast

import httptools
import msgspec
import uvloop

from onbook.wire.signing import new_ring
from onbook.wire.worker_api import (
    InferenceRequest,
    InferenceResponse,
    PurityReport,
    WorkerInfo,
    effective_sampling,
)
from onbook.worker.engines.echo import EchoEngine
from onbook.worker.purity import probe_purity
from onbook.worker.receipts import ReceiptSigner
from onbook.worker.rendering import chat_renderer

READY: Final = "stub ready at "
# With the idea before it, over SDXL's 75 tokens: most rewriters write more than fits.
TAIL: Final = (
    ", with a weathered surface and fine carved edges, standing on wet cobblestones in a narrow "
    "market lane, long raking shadows, low golden evening sun through drifting mist, eye level "
    "framing with leading lines, shallow focus and creamy background bokeh, russet seasonal "
    "palette with subtle complementary accents, subtle film grain, tactile surface texture, "
    "highly detailed, quiet nostalgic atmosphere, gentle rim light on the nearest edges"
)

Answer = Callable[[bytes], bytes]
_encoder: Final = msgspec.json.Encoder()


class _Turn(msgspec.Struct):
    content: str


class _Request(msgspec.Struct):
    messages: list[_Turn]


def plain_answer(body: bytes) -> bytes:
    """Answer without a receipt."""
    turns = _requests.decode(body).messages
    return _encoder.encode(
        {"success": True, "enhanced_prompt": turns[-1].content + TAIL, "finish_reason": "stop"}
    )


class SigningWorker:
    """Answers with a receipt that the worker's own code renders, states and signs."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        ring = new_ring("worker", at=now)
        signer = ring.signer(now)
        engine = EchoEngine(context_size=65_536)
        self._renderer = chat_renderer(engine.text, engine.chat_template)
        self._signer = ReceiptSigner(ring.owner, lambda: signer, engine.model)
        self._decoder = msgspec.json.Decoder(InferenceRequest)
        purity = probe_purity(self._renderer, engine.text, engine.chat_template)
        self.info = _info(self._signer, purity)

    def answer(self, body: bytes) -> bytes:
        """Execute one body of ``POST /enhance``."""
        started = time.perf_counter()
        request = self._decoder.decode(body)
        token_ids = self._renderer.render(request.messages)
        output = request.messages[-1].content + TAIL
        receipt = self._signer.receipt(
            request,
            sampling=effective_sampling(request, "enhance"),
            rendering=self._renderer.name,
            prompt_tokens=len(token_ids),
            token_ids=token_ids,
            finish_reason="stop",
            output=output,
        )
        response = InferenceResponse(
            success=True,
            enhanced_prompt=output,
            generation_time=round(time.perf_counter() - started, 6),
            tokens_generated=len(output) // 4,
            prompt_tokens=len(token_ids),
            finish_reason="stop",
            model_info=self._signer.model,
            receipt=receipt,
        )
        return _encoder.encode(response)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, answer: Answer, info: bytes, delay_s: float) -> None:
        self._answer = answer
        self._info = info
        self._delay_s = delay_s
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of the standard library's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse; malformed input closes the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._url, self._body = b"", []

    def on_url(self, url: bytes) -> None:
        """Collect the target."""
        self._url += url

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer, after the delay where one is set."""
        if self._url == b"/enhance":
            try:
                answer = _http(200, self._answer(b"".join(self._body)))
            except msgspec.DecodeError:
                answer = _http(400, b"{}")
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._write, answer)
                return
        elif self._url == b"/worker/info":
            answer = _http(200, self._info)
        else:
            answer = _http(200 if self._url == b"/health" else 404, b'{"status":"ok"}')
        self._write(answer)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


async def serve(*, port: int, receipt: bool, delay_ms: float) -> None:
    """Serve on loopback until the process is ended."""
    answer, info = plain_answer, b"{}"
    if receipt:
        worker = SigningWorker()
        answer, info = worker.answer, _encoder.encode(worker.info)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(answer, info, delay_ms / 1000), "127.0.0.1", port
    )
    address = server.sockets[0].getsockname()
    print(f"{READY}http://127.0.0.1:{address[1]}", flush=True)
    await server.serve_forever()


def _info(signer: ReceiptSigner, purity: PurityReport) -> WorkerInfo:
    return WorkerInfo(
        worker_id=signer.worker_id,
        worker_type="chat",
        version="stub",
        model=signer.model,
        endpoints=["/enhance"],
        purity=purity,
        public_key=signer.public_key,
    )


def _http(status: int, body: bytes) -> bytes:
    reason = {200: b"OK", 400: b"Bad Request"}.get(status, b"Not Found")
    return b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        reason,
        len(body),
        body,
    )


_requests: Final = msgspec.json.Decoder(_Request)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--receipt", action="store_true", help="sign a true receipt")
    parser.add_argument("--delay-ms", type=float, default=0.0)
    options = parser.parse_args()
    uvloop.run(serve(port=options.port, receipt=options.receipt, delay_ms=options.delay_ms))


if __name__ == "__main__":
    main()
