"""Settings: what there is to set, the YAML files that set it, and where a run lies."""
