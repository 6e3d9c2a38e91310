"""One module a subject; each has `measure(settings)`, which returns its findings."""
