"""Flows: what is planned, and what runs.

- ``plan``     the plan and its context, and their JSON form in the session
- ``planner``  may this flow start, and with which stages (flows.md §2)
- ``executor`` one request: current stage in, challenge or redirect out (flows.md §3)

Stages live in ``core.stages``; the executor is handed their registry.
"""
