"""Small models written in the style of known libraries, one a file."""
