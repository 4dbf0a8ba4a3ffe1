"""Reports: the paper's table, figures and one self-contained page, from what a store holds. Nothing here computes.

`report.write_report` writes everything that `bench report` promises. `redaction.py` decides what a report may hold that
is to be shared. `paper_table.py` and `table_rows.py` make the table, `differences.py` and `statistics.py` its verdicts,
`footnotes.py` what must be read with it, `figures/` the pictures, and `page.py` with `templates/` the HTML page.
"""
