"""The border: it decides what may leave this machine, for a tracker or for a report that is passed on.

`border` builds what is sent (`payload`), from a list of what may pass. `names` decides whether a text that people chose
looks harmless (`is_plain`, `is_name`) or like a path or somebody's id, and replaces it if not (`plain`, `reduced`).
`media` are the pictures and tables that a tracker gets. Read `border` first, then `names`.
"""
