"""Studies that run on the toolkit; each is a package of commands."""
