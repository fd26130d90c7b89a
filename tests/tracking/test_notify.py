"""tracker.notify: who is told what when a run or a sweep ends, and what nobody is shown."""

from __future__ import annotations

import email.policy
import logging
import signal
import smtplib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from watching import wait_for
from webhook_server import MailServer, Webhook, stopped

from dqn_runner.errors import ConfigError, RunError, Stopped
from dqn_runner.program import guarded
from dqn_runner.tracking import notify
from dqn_runner.tracking.messages import Message
from dqn_runner.tracking.notify import PLUGINS, Channel, Notifier

SECRET = "5ecretKeyOfTheTests"
BY_WEBHOOK: tuple[Channel, ...] = ("slack", "discord", "lark", "dingtalk", "wecom")
SHORT = ("total_timesteps=100", "eval.final_episodes=2", "tracker.notify=[slack]")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for plugin in PLUGINS.values():
        for variable in plugin.variables:
            monkeypatch.delenv(variable.name, raising=False)


@pytest.fixture
def webhook(monkeypatch):
    """A server, whose address with a secret is that of every channel with a webhook."""
    with stopped(Webhook()) as server:
        for name in BY_WEBHOOK:
            address = f"{server.url}/{name}/{SECRET}"
            monkeypatch.setenv(f"DQN_NOTIFY_{name.upper()}_WEBHOOK", address)
        yield server


def text_of(body: dict[str, Any]) -> str:
    """The text of a message, wherever the channel has it."""
    found = body.get("text") or body["content"]
    return found if isinstance(found, str) else found.get("content") or found["text"]


def told(webhook: Webhook) -> list[str]:
    return [text_of(body) for _, body in webhook.received]


def tell(*channels: Channel, message: Message | None = None) -> None:
    with Notifier(channels, lambda _: message or Message("it has ended", ["with 3 < 4"])):
        pass


def test_every_channel_is_told_of_a_run_once(command, quick, webhook):
    names = ",".join(BY_WEBHOOK)
    done = command(*quick, *SHORT, f"tracker.notify=[{names}]", "hydra.run.dir=run")
    assert (done.code, done.err) == (0, "")
    assert sorted(path for path, _ in webhook.received) == sorted(
        f"/{name}/{SECRET}" for name in BY_WEBHOOK
    )
    (final,) = [line for line in done.out.splitlines() if line.startswith("final return")]
    mean = final.split()[2]
    for text in told(webhook):
        assert f"dqn-train: run: finished, final return {mean} ± " in text
        assert "\nfinal return" in text
        assert "\nbest  return" in text


def test_slack_and_discord_show_a_table_as_it_is(webhook):
    tell("slack", "discord", "wecom", message=Message("a", ["<!channel> ``` @everyone"]))
    bodies = {path.split("/")[1]: text_of(body) for path, body in webhook.received}
    assert bodies["slack"] == "```\na\n&lt;!channel&gt; ''' @everyone\n```"
    assert bodies["discord"] == "```\na\n<!channel> ''' @everyone\n```"
    assert bodies["wecom"] == "a\n<!channel> ``` @everyone"


@pytest.mark.parametrize("channel", PLUGINS)
def test_a_text_is_as_long_as_the_channel_takes(channel):
    plugin = PLUGINS[channel]
    lines = [f"agent.lr={i} ± " + "x" * 40 for i in range(10_000)]
    text = Message("the sweep", lines).cut(plugin.most_bytes, plugin.escapes)
    assert plugin.most_bytes - 100 < len(text.encode()) <= plugin.most_bytes
    assert "the sweep\nagent.lr=0 ±" in text
    shown = text.count("agent.lr=")
    assert f"… {10_000 - shown:d} more lines" in text


def test_telegram(webhook, monkeypatch):
    import requests

    post = requests.post

    def to_loopback(url: str, **options: Any) -> Any:
        host, path = "https://api.telegram.org", url.removeprefix("https://api.telegram.org")
        assert url.startswith(host)
        return post(webhook.url + path, **options)

    monkeypatch.setattr(requests, "post", to_loopback)
    monkeypatch.setenv("DQN_NOTIFY_TELEGRAM_TOKEN", f"12:{SECRET}")
    monkeypatch.setenv("DQN_NOTIFY_TELEGRAM_CHAT", "345")
    tell("telegram")
    assert webhook.received == [
        (f"/bot12:{SECRET}/sendMessage", {"chat_id": "345", "text": "it has ended\nwith 3 < 4"})
    ]


@pytest.mark.parametrize("channel", ["lark", "dingtalk"])
def test_a_message_is_signed_with_the_secret(webhook, monkeypatch, channel):
    monkeypatch.setenv(f"DQN_NOTIFY_{channel.upper()}_SECRET", "SECabc")
    tell(channel)
    ((path, body),) = webhook.received
    assert "sign" in body or "sign=" in path


@pytest.fixture
def mail(monkeypatch):
    """A mail server on loopback, to which no encryption is begun."""
    monkeypatch.setattr(smtplib.SMTP, "starttls", lambda *_, **__: None)
    with stopped(MailServer()) as server:
        values = ("me@a.test", "you@b.test", SECRET, "127.0.0.1", str(server.port))
        names = ("SENDER", "RECEIVER", "PASSWORD", "SERVER", "PORT")
        for name, value in zip(names, values, strict=True):
            monkeypatch.setenv(f"DQN_NOTIFY_EMAIL_{name}", value)
        yield server


def test_mail(mail):
    tell("email")
    assert mail.logins == [["me@a.test", SECRET]]
    assert mail.receivers == ["you@b.test"]
    (content,) = mail.mails
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert message["subject"] == "it has ended"
    plain, html = message.iter_parts()
    assert plain.get_content().split() == ["it", "has", "ended", "with", "3", "<", "4"]
    assert html.get_content().replace("\r", "").strip() == "<pre>it has ended\nwith 3 &lt; 4</pre>"


def test_mail_that_is_refused_is_told_without_the_password(mail, capsys):
    mail.refuses = True
    tell("email")
    assert capsys.readouterr().err == "dqn-train: WARNING: tracker.notify: email: answers 535\n"


def test_what_a_channel_needs_is_asked_for_before_anything_is_made(command, quick):
    done = command(*quick, *SHORT, "hydra.run.dir=run")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dqn-train: error: tracker.notify=slack: needs DQN_NOTIFY_SLACK_WEBHOOK in the "
        "environment\n"
    )
    sweep = command("-m", *quick, *SHORT, "seed=0,1", "hydra.sweep.dir=sweep")
    assert (sweep.code, sweep.err) == (2, done.err)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("channel", "variable", "value"),
    [
        ("slack", "DQN_NOTIFY_SLACK_WEBHOOK", SECRET),
        ("dingtalk", "DQN_NOTIFY_DINGTALK_SECRET", SECRET),
        ("email", "DQN_NOTIFY_EMAIL_PORT", SECRET),
    ],
)
def test_a_value_of_another_form_is_not_shown(webhook, mail, monkeypatch, channel, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable} must be ") as refusal:
        tell(channel)
    assert value not in str(refusal.value)


def fail_with_500(webhook: Webhook) -> None:
    webhook.status = 500


def hang(webhook: Webhook) -> None:
    webhook.released.clear()


def refuse(webhook: Webhook) -> None:
    webhook.answer = {"errcode": 9, "errmsg": f"no\nbot {webhook.url}/wecom/{SECRET} ({SECRET})"}


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (fail_with_500, "answers 500"),
        (hang, "has not answered within 0.5 s"),
        (refuse, "refused: no bot … (…)"),
        (Webhook.stop, "failed (ConnectionError)"),
    ],
)
def test_a_webhook_that_fails_is_one_line_without_its_address(
    webhook, monkeypatch, capsys, caplog, fail, says
):
    monkeypatch.setattr(notify, "SECONDS", 0.5 if fail is hang else 20.0)
    caplog.set_level(logging.DEBUG)
    fail(webhook)
    tell("wecom")
    assert capsys.readouterr() == ("", f"dqn-train: WARNING: tracker.notify: wecom: {says}\n")
    assert SECRET not in caplog.text


def test_a_name_that_no_server_has(monkeypatch, capsys):
    monkeypatch.setenv("DQN_NOTIFY_SLACK_WEBHOOK", f"https://nowhere.invalid/{SECRET}")
    tell("slack")
    assert capsys.readouterr().err.endswith("slack: failed (ConnectionError)\n")


def test_a_failing_webhook_fails_no_run_and_is_in_no_file(command, quick, webhook):
    webhook.status = 500
    done = command(*quick, *SHORT, "hydra.run.dir=run", "hydra.verbose=true")
    assert done.code == 0
    assert done.err.count("tracker.notify") == 1
    assert SECRET not in done.out + done.err
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert (Path("run") / "train.log") in files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert "notify" not in (Path("run") / "config.yaml").read_text()


def test_a_run_that_fails_is_told_with_its_reason(command, quick, webhook):
    done = command(*quick, *SHORT, "hydra.run.dir=run", "agent.lr=1e30")
    assert done.code == 1
    (text,) = told(webhook)
    assert "dqn-train: run: failed: " in text
    assert "the loss" in text


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_is_one_message_with_its_groups(command, quick, webhook, launcher):
    arguments = (
        *("-m", *quick, *SHORT, "hydra.sweep.dir=sweep", f"hydra/launcher={launcher}"),
        *("agent.lr=1e-3,1e30", "seed=0,1"),
    )
    assert command(*arguments).code == 1
    (text,) = told(webhook)
    lines = text.splitlines()
    assert lines[1] == "dqn-train: sweep sweep: 2 of 4 runs finished, 2 failed"
    assert [line.split(":")[0] for line in lines[2:4]] == [
        f"agent.lr=1e+30,seed={seed}" for seed in (0, 1)
    ]
    (group,) = [line for line in lines if line.startswith("agent.lr=0.001 ")]
    assert group.endswith("  2")
    assert " to " in group


def test_a_sweep_that_has_nothing_to_do_tells_nobody(command, quick, webhook):
    arguments = ("-m", *quick, *SHORT, "hydra.sweep.dir=sweep", "seed=0,1")
    for _ in range(2):
        assert command(*arguments).code == 0
    assert len(webhook.received) == 1


def test_a_search_is_one_message(command, quick, webhook):
    pytest.importorskip("optuna")
    done = command(
        *("-m", *quick, *SHORT, "hydra/sweeper=optuna", "agent.lr=interval(1e-4,1e-3)"),
        *("seed=0,1", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep"),
    )
    assert done.code == 0, done.err
    (text,) = told(webhook)
    assert "sweep sweep: 4 of 4 runs finished" in text


def test_runs_without_a_result_are_in_no_table(tmp_path):
    """dqn-compare takes the last evaluation for the final return of a run that goes on."""
    from run_dirs import write_run

    from dqn_runner.tracking.messages import about_sweep

    jobs = [write_run(tmp_path / "a", [1.0], 2.0), write_run(tmp_path / "b", [30.0], seed=1)]
    message = about_sweep(tmp_path, jobs, "stopped by SIGTERM")
    assert message.headline.endswith(": 1 of 2 runs finished; stopped by SIGTERM")
    (row,) = [line.split() for line in message.lines if line.startswith("CartPole-v1")]
    assert row == ["CartPole-v1", "2.0", "1"]
    (jobs[0] / "result.json").unlink()
    assert about_sweep(tmp_path, jobs, "").lines == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (None, "ended: "),
        (RunError("no"), "ended: failed: RunError: no"),
        (Stopped(signal.SIGTERM), "ended: stopped by SIGTERM"),
        (Stopped(signal.SIGINT), None),
        (KeyboardInterrupt(), None),
        (ConfigError("typed wrong"), None),
    ],
)
def test_who_typed_ctrl_c_is_told_nothing(webhook, error, says):
    def leave() -> None:
        with Notifier(["slack"], lambda how: Message(f"ended: {how}", [])):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            leave()
    else:
        leave()
    assert told(webhook) == ([f"```\n{says}\n```"] if says else [])


def test_a_run_that_is_terminated_says_how_to_go_on(process, quick, webhook, tmp_path):
    arguments = (*quick, *SHORT, "total_timesteps=10000000", "hydra.run.dir=run")
    with process(*arguments) as child:
        wait_for((tmp_path / "run" / "checkpoints" / "last.pt").exists, seconds=60)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
    assert child.returncode == 143
    assert told(webhook) == [
        "```\ndqn-train: run: stopped by SIGTERM; dqn-train resume=run goes on\n```"
    ]


def test_a_foreign_config_notifies_nobody(command, quick, webhook, capsys):
    """Whatever reads a run directory ignores the channels in its config.yaml."""
    import dqn_runner
    from dqn_runner import compare, evaluate

    assert command(*quick, "total_timesteps=100", "hydra.run.dir=run").code == 0
    path = Path("run") / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["tracker"]["notify"] = list(PLUGINS)
    path.write_text(yaml.safe_dump(config))
    evaluated = guarded("", evaluate.command_line, ["run", "--episodes=1", "--videos=0"])
    assert evaluated == 0, capsys.readouterr().err
    assert guarded("", compare.command_line, ["run", "--no-figures"]) == 0
    dqn_runner.load_policy("run")
    assert command("resume=run", "total_timesteps=150").code == 0
    assert webhook.received == []
    assert "notify" not in path.read_text()  # nor does it travel on


def test_who_continues_a_run_can_name_channels_again(command, quick, webhook):
    assert command(*quick, "total_timesteps=100", "hydra.run.dir=run").code == 0
    assert command("resume=run", "total_timesteps=150", "tracker.notify=[slack]").code == 0
    (text,) = told(webhook)
    assert "dqn-train: run: finished" in text
    for wrong in ("slack", "[slak]", "[", "[[slack]]"):
        done = command("resume=run", f"tracker.notify={wrong}")
        assert done.code == 2
        assert f"tracker.notify={wrong}: must be a list, such as [slack], of slack, " in done.err


def test_a_run_that_tells_nobody_loads_nothing_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "dqn_runner.swanlab_internals.client", raising=False)
    tell()
    assert "dqn_runner.swanlab_internals.client" not in sys.modules
