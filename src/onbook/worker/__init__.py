"""The pure inference server. It knows no template, and cannot: see the import contracts."""
