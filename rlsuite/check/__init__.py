"""The regression check: every algorithm on small tasks, compared with stored runs."""
