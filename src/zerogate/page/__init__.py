"""The web page of a server: chat, arena, gates, tables. It asks the same service as the HTTP interface, in one batch.

`mount.py` puts it under `/ui` of the server's application, behind `gate.py`. What it does without a browser, and is
tested without one, has a file each: `asking.py`, `conversation.py`, `people.py`, `presets.py`, `votes.py`,
`heat_map.py`, `tables.py`. The `_tab` files say what is where on the screen; they and `look.py` alone know Gradio.
"""
