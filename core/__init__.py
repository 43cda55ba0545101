"""The embedded core: the core's HTTP API, flow engine and WebSocket in one process over one SQLite file."""
