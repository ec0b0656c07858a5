"""A hub that models are pulled from, over the HTTP API that Hugging Face's hub speaks."""
