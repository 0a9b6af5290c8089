"""Flags as pflag parses them, durations as Go does."""

from __future__ import annotations

import pytest

from componentbase.flags import FlagError, Flags, format_duration, parse_duration


def declared(env_prefix: str = "") -> Flags:
    flags = Flags("thing", "A thing.", env_prefix=env_prefix, version="v1")
    flags.string("data-dir", "default.etcd", "Where data is.")
    flags.integer("secure-port", 6443, "The port.", short="p")
    flags.boolean("leader-elect", True, "Whether to.")
    flags.boolean("verbose")
    flags.duration("election-timeout", "1s")
    flags.strings("etcd-servers")
    flags.number("kube-api-qps", 50.0)
    flags.string("mode", "a", choices=["a", "b"])
    return flags


@pytest.mark.parametrize(
    ("argv", "attribute", "expected"),
    [
        ([], "data_dir", "default.etcd"),
        (["--data-dir=x"], "data_dir", "x"),
        (["--data-dir", "x"], "data_dir", "x"),
        (["--data-dir", "-x"], "data_dir", "-x"),
        (["--data-dir=a=b"], "data_dir", "a=b"),
        (["--data-dir="], "data_dir", ""),
        (["--data-dir=a", "--data-dir=b"], "data_dir", "b"),
        (["--secure-port=0x10"], "secure_port", 16),
        (["-p", "7"], "secure_port", 7),
        ([], "leader_elect", True),
        (["--leader-elect=false"], "leader_elect", False),
        (["--leader-elect=F"], "leader_elect", False),
        (["--verbose"], "verbose", True),
        (["--election-timeout=1m30s"], "election_timeout", 90.0),
        (["--etcd-servers=a,b", "--etcd-servers=c"], "etcd_servers", ["a", "b", "c"]),
        (["--etcd-servers="], "etcd_servers", []),
        (["--kube-api-qps=0.5"], "kube_api_qps", 0.5),
        (["--mode=b"], "mode", "b"),
    ],
)
def test_values(argv: list[str], attribute: str, expected: object) -> None:
    assert getattr(declared().parse(argv), attribute) == expected


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--nothing"], "unknown flag: --nothing"),
        (["--nothing=1"], "unknown flag: --nothing"),
        (["--verbose", "false"], 'unknown command "false" for "thing"'),
        (["serve"], 'unknown command "serve" for "thing"'),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["--data-dir"], "flag needs an argument: --data-dir"),
        (["--secure-port=x"], 'invalid argument "x" for "--secure-port" flag'),
        (["--leader-elect=maybe"], 'invalid argument "maybe" for "--leader-elect" flag'),
        (
            ["--election-timeout=5"],
            'invalid argument "5" for "--election-timeout" flag: invalid duration "5"',
        ),
        (["--mode=c"], "must be one of 'a', 'b'"),
    ],
)
def test_what_cannot_be_used(argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FlagError, match=complaint.replace("(", r"\(")):
        declared().parse_or_raise(argv)
    with pytest.raises(SystemExit) as left:
        declared().parse(argv)
    assert left.value.code == 2
    assert complaint in capsys.readouterr().err


def test_environment_is_used_where_the_command_line_is_silent() -> None:
    environ = {"ETCD_DATA_DIR": "/env", "ETCD_SECURE_PORT": "1", "OTHER_MODE": "b"}
    values = declared("ETCD_").parse(["--secure-port=2"], environ)
    assert (values.data_dir, values.secure_port, values.mode) == ("/env", 2, "a")
    assert values.changed("data-dir")
    assert not values.changed("mode")
    assert declared().parse([], environ).data_dir == "default.etcd"


@pytest.mark.parametrize(("argv", "shown"), [(["--help"], "--secure-port int"), (["--version"], "v1")])
def test_informative_flags_leave_with_success(
    argv: list[str], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        declared().parse(argv)
    assert left.value.code == 0
    assert shown in capsys.readouterr().out


def test_a_flag_is_declared_once() -> None:
    flags = declared()
    with pytest.raises(ValueError, match="redefined: mode"):
        flags.string("mode")


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match="data_dirr"):
        _ = declared().parse([]).data_dirr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("1m30s", 90.0),
        ("100ms", 0.1),
        ("1.5h", 5400.0),
        ("-2s", -2.0),
        ("+.5s", 0.5),
        ("1h1m1s", 3661.0),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("3ns", 3e-9),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1m 30s", "--1s", "1m30", "."])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (90, "1m30s"), (0.1, "100ms"), (3600, "1h0m0s"), (1.5, "1.5s"), (1e-5, "10µs"), (-2, "-2s")],
)
def test_durations_as_go_prints_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == pytest.approx(seconds)
