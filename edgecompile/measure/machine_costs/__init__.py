"""What a machine takes beside a model's units: its rates, messages, wire formats, items."""
