"""Serving: one frozen base, many adapters, requests of all of them in one batch, behind OpenAI's interface.

`engine.py` runs the batches and knows token ids; `pool.py` has the adapters; `service.py` stands between the engine and
`api.py`, which is the HTTP interface. `server.py` puts them together. FastAPI and what belongs to it are imported by
those two alone.
"""
