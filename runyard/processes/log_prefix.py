"""Prefixes the output of the stack's processes with their names, as a supervisord event listener.

It speaks supervisord's event listener protocol on standard input and output, and writes the lines
to standard error.
"""

import sys

from supervisor import childutils

from runyard.settings import settings
from runyard.text.json_lines import LONGEST_LINE, as_json_line, as_records
from runyard.text.redaction import redactor
from runyard.text.safe_cuts import MARGIN, cut_before

_COLOURS = {"postgres": 34, "code": 36, "daemon": 35, "web": 32, "worker": 33}
_WIDTH = 8


def prefix_output() -> int:
    """Copy every line that a process of the stack writes, redacted and prefixed with its name.

    With RUNYARD_LOG_FORMAT=json each is a line of JSON, with the name in it; a traceback is one.
    """
    colours = sys.stderr.isatty()
    as_json = settings().log_format == "json"
    redact = redactor()
    rest: dict[str, str] = {}
    while True:
        headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
        if headers["eventname"].startswith("PROCESS_LOG"):
            details, data = childutils.eventdata(payload)
            name = details["processname"]
            *lines, rest[name] = (rest.get(name, "") + data).split("\n")
            if len(rest[name]) > LONGEST_LINE:
                # Buffered, it would be scanned again with every chunk that is appended.
                # The end of it is kept: a secret may begin there.
                place = cut_before(rest[name], len(rest[name]) - MARGIN, redact)
                lines.append(rest[name][:place])
                rest[name] = rest[name][place:]
        else:
            details = childutils.get_headers(payload)
            name = details["processname"]
            lines = [] if details["expected"] == "1" else ["ended unexpectedly; restarting it"]
        if as_json:
            for record in as_records(lines):
                sys.stderr.write(as_json_line(name, redact(record)) + "\n")
        else:
            for line in lines:
                sys.stderr.write(f"{_label(name, colours)} | {redact(line)}\n")
        sys.stderr.flush()
        childutils.listener.ok(sys.stdout)


def _label(name: str, colours: bool) -> str:
    padded = name.ljust(_WIDTH)
    return f"\x1b[{_COLOURS.get(name, 37)}m{padded}\x1b[0m" if colours else padded
