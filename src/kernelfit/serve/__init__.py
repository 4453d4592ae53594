"""A page on this machine alone: `server` speaks HTTP, `jobs` has the work done in turn, by what it is handed."""
