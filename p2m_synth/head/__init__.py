"""The head: the licence-clean asset, identities, expressions, and the morphable model made of them."""
