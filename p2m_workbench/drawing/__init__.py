"""Pictures without widgets: meshes, data sets, and the HTML page that shows them."""
