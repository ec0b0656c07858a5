"""How the gateway reaches a worker."""
