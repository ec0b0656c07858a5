"""An engine behind another server: llama-server, vLLM, SGLang, or any that speaks OpenAI's API.

``start_openai_upstream(settings, progress=...)`` is blocking, like ``start_llama_cpp``: it asks the
server what it is and returns one of two engines.

- ``TokenUpstream`` (an ``Engine``): the server is given token ids, by llama-server's
  ``/completion`` or by ``/v1/completions``. It is rendered for and probed as any other engine
  is: ``chat_renderer(engine.text, engine.chat_template)``, then the purity probe. ``engine.notes``
  belong in the purity report's notes.
- ``ChatUpstream`` (a ``ChatEngine``): the server renders the messages itself. There is nothing to
  render here and ``engine.purity`` is the finished report, with ``verification`` set to
  ``request_only``; it has passed, or the start would have been refused.

Both open their connections in the event loop that uses them first, and both want ``close()``.
"""

from onbook.worker.engines.openai_upstream.chat_engine import ChatUpstream
from onbook.worker.engines.openai_upstream.start import Progress, start_openai_upstream
from onbook.worker.engines.openai_upstream.token_engine import TokenUpstream

__all__ = ["ChatUpstream", "Progress", "TokenUpstream", "start_openai_upstream"]
