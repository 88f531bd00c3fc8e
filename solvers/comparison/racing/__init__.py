"""Execution of a comparison: :func:`compare`, its tasks, and their worker processes.

- ``race``: :func:`compare`; finds the missing solves, runs them, and writes each row to disk
- ``entrants``: backends with their settings, and how a worker process creates the solver
- ``track``: a task, and the pinned worker process of each backend
- ``worker``: the program of a worker process
- ``spending``: the account of a comparison for calls to services
"""
