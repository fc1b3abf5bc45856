"""Many answers at once: against llama-cpp-python's plain loop and llama-server, and what each part of it costs."""
