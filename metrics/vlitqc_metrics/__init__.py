"""The metrics of the ten principles, one file each; found by vlitqc through entry points like any other package's."""
