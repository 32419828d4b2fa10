"""What a reviewer moves, selects and looks at: the data behind the interactive parts of the page."""
