"""Hugging Face transformers on the same model file: a child process, run by a Python that has it.

Reads one JSON object per line, ``{"ids": […], "max_tokens": n, "seed": n}``, and answers each with
``{"tokens": n, "seconds": s, "first_s": s}``; the first line that it writes is ``ready``.
"""

import json
import sys
import time

import torch  # type: ignore[import-not-found]  # only where this file is run
from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]  # likewise


class _Clock:
    """Notes when the first token came: what ``generate`` calls a streamer."""

    def __init__(self) -> None:
        self.calls = 0
        self.first = 0.0

    def put(self, _tokens: object) -> None:
        self.calls += 1
        # The first call hands over the prompt itself.
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        return


def main() -> None:
    """Serve the lines of standard input."""
    directory, name, threads = sys.argv[1:4]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name)
    model.eval()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        torch.manual_seed(asked["seed"])
        ids = torch.tensor([asked["ids"]])
        clock = _Clock()
        started = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=asked["max_tokens"],
                do_sample=True,
                temperature=0.7,
                top_p=0.9,
                top_k=0,
                streamer=clock,
            )
        answer = {
            "tokens": int(out.shape[1]) - len(asked["ids"]),
            "seconds": time.perf_counter() - started,
            "first_s": clock.first - started,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
