"""Examples: whole programs of up to 150 lines, each run by a test. A regular package, since Petastorm installs one of that name."""
