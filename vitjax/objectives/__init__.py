"""Objectives: what to learn, one file a method, each with the one door `make(config, run)`."""
