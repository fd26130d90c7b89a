"""Tells people, in the channels they name, that a run or a sweep has ended or failed.

The commands that train do this, never a worker of a sweep. SwanLab's notification plugins send the
message. Addresses and keys come from environment variables, and are in no message, file or log.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import yaml

from dqn_runner.errors import ConfigError, Stopped, named
from dqn_runner.tracking.messages import Message

Channel = Literal["slack", "discord", "telegram", "lark", "dingtalk", "wecom", "email"]

SECONDS = 20.0  # that all channels together may take
PREFIX = "DQN_NOTIFY_"
FENCE = {"```": "'''"}
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Variable(NamedTuple):
    """An environment variable, for an argument of SwanLab's plugin; `pattern` is its form."""

    name: str
    argument: str
    pattern: str
    form: str
    default: str | None = None  # None: it is needed


class Plugin(NamedTuple):
    """A class of swanlab.plugin.notification, and the longest message in bytes that it may send.

    With `escapes`, what must not be in a preformatted text, the message is one: a table stays a
    table, and no name in it calls anybody.
    """

    class_name: str
    variables: tuple[Variable, ...]
    most_bytes: int
    escapes: Mapping[str, str] = MappingProxyType({})


def _webhook(name: str) -> Variable:
    return Variable(f"{PREFIX}{name}_WEBHOOK", "webhook_url", r"https?://\S+", "https://…")


def _secret(name: str, pattern: str = r"\S+", form: str = "one word") -> Variable:
    return Variable(f"{PREFIX}{name}_SECRET", "secret", pattern, form, default="")


# The limits are a little under those of the services.
PLUGINS: dict[Channel, Plugin] = {
    "slack": Plugin("SlackCallback", (_webhook("SLACK"),), 3_500, ENTITIES | FENCE),
    "discord": Plugin("DiscordCallback", (_webhook("DISCORD"),), 1_900, FENCE),
    "telegram": Plugin(
        "TelegramCallback",
        (
            Variable(f"{PREFIX}TELEGRAM_TOKEN", "bot_token", r"\d+:\S+", "NUMBER:TEXT"),
            Variable(f"{PREFIX}TELEGRAM_CHAT", "chat_id", r"\S+", "one word"),
        ),
        4_000,
    ),
    "lark": Plugin("LarkCallback", (_webhook("LARK"), _secret("LARK")), 18_000),
    "dingtalk": Plugin(
        "DingTalkCallback",
        (_webhook("DINGTALK"), _secret("DINGTALK", r"SEC\S+", "SEC…")),
        18_000,
    ),
    "wecom": Plugin("WeComCallback", (_webhook("WECOM"),), 2_000),
    "email": Plugin(
        "EmailCallback",
        (
            Variable(f"{PREFIX}EMAIL_SENDER", "sender_email", r"\S+@\S+", "an address"),
            Variable(f"{PREFIX}EMAIL_RECEIVER", "receiver_email", r"\S+@\S+", "an address"),
            Variable(f"{PREFIX}EMAIL_PASSWORD", "password", r".+", "text"),
            Variable(f"{PREFIX}EMAIL_SERVER", "smtp_server", r"\S+", "the name of a host"),
            Variable(f"{PREFIX}EMAIL_PORT", "port", r"\d{1,5}", "a number", default="587"),
        ),
        100_000,
    ),
}


def channels_in(text: str) -> list[Channel]:
    """The channels in `[slack, email]`; raises ConfigError for anything else."""
    try:
        named = yaml.safe_load(text)
    except yaml.YAMLError:
        named = None
    if not isinstance(named, list) or not all(name in list(PLUGINS) for name in named):
        allowed = ", ".join(PLUGINS)
        raise ConfigError(f"tracker.notify={text}: must be a list, such as [slack], of {allowed}")
    return named


class Notifier:
    """A context that tells channels, when it is left, what `about` says then.

    It says nothing after Ctrl-C, because whoever typed it knows. A channel that fails gives a line
    without its address.
    """

    def __init__(self, channels: Sequence[Channel], about: Callable[[str], Message]) -> None:
        """`about` is given how it was interrupted, empty if it was not.

        Raises ConfigError if what a channel needs is not in the environment.
        """
        self._about = about
        self._arguments = {name: _arguments(name) for name in dict.fromkeys(channels)}

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, ConfigError):  # bad input, of the one who waits for it
            self.tell(error)

    def tell(self, error: BaseException | None) -> None:
        """Tell the channels, unless `error`, with which the context ends, is Ctrl-C."""
        is_typed = isinstance(error, Stopped) and error.signal_number == signal.SIGINT
        if not self._arguments or is_typed or isinstance(error, KeyboardInterrupt):
            return
        try:
            message = self._about(_interruption(error))
        except Exception as failure:  # what a run left can be anything, and it has ended
            message = Message(f"dqn-train has ended ({type(failure).__name__})", [])
        for name, problem in self._problems(message).items():
            print(f"dqn-train: WARNING: tracker.notify: {name}: {problem}", file=sys.stderr)

    def _problems(self, message: Message) -> dict[Channel, str]:
        """Send to all channels at once; returns why it failed, for those that failed."""
        # urllib3 logs the path of each request, which is a key, if hydra.verbose=true.
        logging.getLogger("urllib3").setLevel(logging.WARNING)
        late = f"has not answered within {SECONDS:g} s"
        problems = dict.fromkeys(self._arguments, late)
        # Threads that hang end with the process.
        threads = [
            threading.Thread(target=self._send, args=(name, message, problems), daemon=True)
            for name in self._arguments
        ]
        deadline = time.monotonic() + SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return {name: problem for name, problem in dict(problems).items() if problem}

    def _send(self, name: Channel, message: Message, problems: dict[Channel, str]) -> None:
        """Send to one channel, and note in `problems` why that failed, or nothing."""
        try:
            from dqn_runner.swanlab_internals.client import Refused, send_notification

            plugin, arguments = PLUGINS[name], self._arguments[name]
            text = message.cut(plugin.most_bytes, plugin.escapes)
            try:
                send_notification(plugin.class_name, arguments, message.headline, text)
            except Refused as refusal:
                problems[name] = f"refused: {_redacted(str(refusal), arguments)}"
            else:
                problems[name] = ""
        except BaseException as error:  # its text would name the address
            problems[name] = _without_address(error)


def _arguments(name: Channel) -> dict[str, str]:
    """The arguments of a channel's plugin, from the environment; raises ConfigError."""
    arguments = {}
    for variable in PLUGINS[name].variables:
        value = os.environ.get(variable.name, "").strip() or variable.default
        if value is None:
            raise ConfigError(f"tracker.notify={name}: needs {variable.name} in the environment")
        if value and not re.fullmatch(variable.pattern, value):
            raise ConfigError(f"tracker.notify={name}: {variable.name} must be {variable.form}")
        arguments[variable.argument] = value
    return arguments


def _interruption(error: BaseException | None) -> str:
    if isinstance(error, Stopped):
        return f"stopped by {signal.Signals(error.signal_number).name}"
    return "" if error is None else f"failed: {named(error)}"


def _without_address(error: BaseException) -> str:
    """What failed, without the text of `error`."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = status or getattr(error, "smtp_code", None)  # of an answer by e-mail
    return f"answers {status}" if status else f"failed ({type(error).__name__})"


def _redacted(text: str, arguments: dict[str, str]) -> str:
    """A service's own words in a line, without any part of the address or key."""
    parts = {part for value in arguments.values() for part in re.split(r"[/?=&:@]+", value)}
    for part in sorted({*arguments.values(), *parts}, key=len, reverse=True):
        if len(part) > 3:
            text = text.replace(part, "…")
    return " ".join(text.split())[:200]
