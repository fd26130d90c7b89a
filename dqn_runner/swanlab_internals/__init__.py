"""All use of what SwanLab and its dashboard keep internal, and may change without notice.

pyproject.toml allows one minor version of SwanLab and one version of swanboard. `check_client` and
`page.check` tell a user in a line if another one is installed all the same.
"""

from importlib.metadata import version

from dqn_runner.errors import ConfigError, in_a_line


def check_client() -> None:
    """Raise ConfigError if SwanLab lacks an inner part that sending to a server needs."""
    try:
        import dqn_runner.swanlab_internals.client  # noqa: F401
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"swanlab {version('swanlab')} is not the version whose inner parts are used here "
            f"({in_a_line(error)}): pip install 'swanlab>=0.10.3,<0.11'"
        ) from error
