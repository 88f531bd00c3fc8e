"""How a comparison is run: tasks, the pinned processes that do them, and what runs inside."""
