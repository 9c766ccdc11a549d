"""The worker process: what runs tools, and the carriers that bring calls."""
