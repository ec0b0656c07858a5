"""What runs the model: llama.cpp in process, or an echo for tests."""

from onbook.worker.engines.base import Engine, EngineError, EngineStartError, GrammarError, Piece

__all__ = ["Engine", "EngineError", "EngineStartError", "GrammarError", "Piece"]
