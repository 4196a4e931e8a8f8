"""What a login shell is to a program: `session_leader.py {job-control|none} PROGRAM ARGUMENT…` on a terminal.

With job control the program is a job in the foreground that Ctrl-Z stops, as below an interactive shell.
With none it shares its leader's process group. Nobody in the session but outside that group can continue
it, so the group is an orphaned one (POSIX), as below `ssh -t HOST PROGRAM` and `xterm -e PROGRAM`.

It ends with the program, with its exit code. SIGHUP is handed on; SIGTERM kills the program, stopped or not.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios


def main(control: str, *command: str) -> int:
    taken = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM}
    # Ctrl-C is for the program. With SIGTTOU blocked a job in the background may take the terminal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*taken, signal.SIGINT, signal.SIGTTOU})
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    job = os.fork()
    if job == 0:
        if control == "job-control":
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execv(command[0], command)
    while True:
        number = signal.sigwait(taken)
        if number != signal.SIGCHLD:
            os.kill(job, signal.SIGHUP if number == signal.SIGHUP else signal.SIGKILL)
            continue
        ended, status = os.waitpid(job, os.WNOHANG)  # none, when it was stopped or continued
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
