import argparse


def parser_of(page: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of a script, as it is written."""
    return argparse.ArgumentParser(
        description=page, formatter_class=argparse.RawDescriptionHelpFormatter
    )
