"""Publishers: whose signature makes a package believable."""
