"""The command line: `bench VERB`, one function a verb, grouped into files as `bench --help` groups the verbs.

`main` builds the command and turns errors that are meant for people into one line and an exit code. The verbs are in
`run`, `results`, `data`, `store` and `jobs`; they share `options` (arguments and their help) and `session` (opening
the store and the matrix, the two streams, an orderly stop). A verb gathers what it needs from the other rooms and
hands it to a function of `show_table`, `show_status`, `show_data` or `show_store`, which print and compute nothing.
Data go to stdout and talk goes to stderr. Heavy imports stand inside the verb that needs them, so that
`bench --help` stays quick. Read `main` first, then `results`, the shortest of the verbs.
"""
