"""Read the settings that people write in YAML files and on the command line, and check them.

`yaml_file` reads a file (`read_yaml`) and applies `--set key=value` to it (`apply_override`). `validation` builds a
pydantic model from the mapping (`build`). Both refuse a mistake with one line that names the place, the value that
was given and the values that are allowed. Read `yaml_file` first, then `validation`.
"""

AFFECTS_RESULTS = False
