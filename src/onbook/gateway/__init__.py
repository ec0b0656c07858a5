"""The HTTP face: authentication, routes, errors."""
