"""The file `.env` of the folder where a process starts."""

from collections.abc import MutableMapping

from dotenv import dotenv_values

NAME = ".env"
# What the client of the object store reads there by itself, and takes an empty value as one.
OF_STORES = ("AWS_", "GOOGLE_", "AZURE_")


def read_into(environment: MutableMapping[str, str]) -> None:
    """Add what `.env` says and the environment does not, where libraries and the processes that
    this one starts find it too. What is empty counts as not set.
    """
    for name, value in dotenv_values(NAME).items():
        if value and not environment.get(name):
            environment[name] = value
    for name in [name for name in environment if name.startswith(OF_STORES)]:
        if not environment[name]:
            del environment[name]
