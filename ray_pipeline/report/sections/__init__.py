"""The sections of the report: each is NAME.py with its `SECTION`, and NAME.html.j2."""
