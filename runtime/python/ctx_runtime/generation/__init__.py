"""Text generation with a decoder bundle: a cache of fixed capacity, steps over it, and what is fed to its graphs."""
