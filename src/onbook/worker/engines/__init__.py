"""What runs the model: llama.cpp in process, or an echo for tests."""
