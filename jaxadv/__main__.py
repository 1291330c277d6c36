"""`python -m jaxadv`."""

from jaxadv.cli import app

if __name__ == "__main__":
    app(prog_name="jaxadv")
