"""Processes that meet and count each other again and again, until some are told to fail.

python tests/meeting.py [--refuse=0,1] [--kill=0] <options of vitjax.multihost>
"""

import os
import signal

from vitjax import cli, multihost
from vitjax.errors import UserError


def main(argv):
    options = cli.parser("meeting", __doc__)
    multihost.add_options(options)
    options.add_argument("--refuse", default="")
    options.add_argument("--kill", default="")
    values, _ = cli.parse(options, argv)
    with multihost.session(values):
        assert sorted(multihost.from_all([values.process_id])) == list(range(values.num_processes))
        assert multihost.from_first([values.process_id + 2**40]) == [2**40]
        if str(values.process_id) in values.refuse.split(","):
            raise UserError("a setting is wrong")
        if str(values.process_id) in values.kill.split(","):
            os.kill(os.getpid(), signal.SIGKILL)
        while values.refuse or values.kill:
            multihost.from_all([values.process_id])


if __name__ == "__main__":
    cli.run(main)
