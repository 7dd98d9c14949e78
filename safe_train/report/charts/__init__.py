"""Charts as inline SVG, drawn in Python: no script and no network when the page is opened."""
