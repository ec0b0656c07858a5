"""What the gateway costs: measured over loopback beside a bare stub worker, and step by step."""
