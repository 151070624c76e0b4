"""Reader of the file `.env` in the folder where a process starts."""

from collections.abc import MutableMapping

from dotenv import dotenv_values

ENV_FILE = ".env"
# Variables that the object store's client reads from the environment itself, taking an empty value
# as set.
OF_STORES = ("AWS_", "GOOGLE_", "AZURE_")


def read_into(environment: MutableMapping[str, str]) -> None:
    """Add the settings of `.env` that the environment lacks, so that libraries and child processes
    find them too. An empty value counts as not set.
    """
    for name, value in dotenv_values(ENV_FILE).items():
        if value and not environment.get(name):
            environment[name] = value
    for name in [name for name in environment if name.startswith(OF_STORES)]:
        if not environment[name]:
            del environment[name]
