"""HTML components of the page: markup, script and style, without knowledge of runs."""
