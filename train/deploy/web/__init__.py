"""A page that runs an exported student in the browser, and the server of the page."""
